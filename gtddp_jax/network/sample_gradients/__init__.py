"""Per-sample gradients of players, and the cost rules by which they are computed."""

from gtddp_jax.network.sample_gradients.base import SampleGradients, map_samples
from gtddp_jax.network.sample_gradients.layer_rules import (
    compute_sample_gradients,
    cost_rule,
    parameter_count,
)

__all__ = [
    "SampleGradients",
    "compute_sample_gradients",
    "cost_rule",
    "map_samples",
    "parameter_count",
]
