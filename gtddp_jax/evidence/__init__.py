"""Paired evidence: the paper's experiments and grids of training runs (`gtddp reproduce`).

Needs the `train` extra. A study is a function `Options -> Section` and an entry in `STUDIES`.
"""

from gtddp_jax.evidence.section import Options, Section

__all__ = ["Options", "Section"]
