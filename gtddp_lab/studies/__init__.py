"""Studies: the paper's experiments and paired comparisons of training runs (`gtddp reproduce`).

Needs the extra `train`. A study is a function `StudyOptions -> StudySection` with an entry in
`studies.STUDIES`.
"""

from gtddp_lab.studies.section import StudyOptions, StudySection

__all__ = ["StudyOptions", "StudySection"]
