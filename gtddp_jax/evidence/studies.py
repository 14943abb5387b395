"""All studies by name."""

from collections.abc import Callable

from gtddp_jax.evidence import defaults, longer, rivals
from gtddp_jax.evidence.figures import figure1, figure4, figure6c, figure7b
from gtddp_jax.evidence.paper import figure6, figure8, table2
from gtddp_jax.evidence.prediction import study as prediction
from gtddp_jax.evidence.section import Options, Section

STUDIES: dict[str, Callable[[Options], Section]] = {
    "table2": table2.study,
    "figure1": figure1.study,
    "figure4": figure4.study,
    "figure6": figure6.study,
    "figure6c": figure6c.study,
    "figure7b": figure7b.study,
    "figure8": figure8.study,
    "defaults": defaults.study,
    "rivals": rivals.study,
    "longer": longer.study,
    "prediction": prediction.study,
}
"""What `gtddp reproduce` can do."""
