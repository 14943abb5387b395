"""All studies by name."""

from collections.abc import Callable

from gtddp_lab.studies.defaults import study_defaults
from gtddp_lab.studies.figures.figure1 import study_figure1
from gtddp_lab.studies.figures.figure4 import study_figure4
from gtddp_lab.studies.figures.figure6c import study_figure6c
from gtddp_lab.studies.figures.figure7b import study_figure7b
from gtddp_lab.studies.joint.joint_study import study_joint
from gtddp_lab.studies.paper.figure6 import study_figure6
from gtddp_lab.studies.paper.figure8 import study_figure8
from gtddp_lab.studies.paper.table2 import study_table2
from gtddp_lab.studies.section import StudyOptions, StudySection
from gtddp_lab.studies.tuned import study_tuned

STUDIES: dict[str, Callable[[StudyOptions], StudySection]] = {
    "table2": study_table2,
    "figure1": study_figure1,
    "figure4": study_figure4,
    "figure6": study_figure6,
    "figure6c": study_figure6c,
    "figure7b": study_figure7b,
    "figure8": study_figure8,
    "defaults": study_defaults,
    "joint": study_joint,
    "tuned": study_tuned,
}
"""The studies of `gtddp reproduce`."""
