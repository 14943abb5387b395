"""Players: per-sample gradients of layers, and the rule by which they are computed."""

from gtddp_jax.players.base import SampleGradients, map_samples
from gtddp_jax.players.rules import parameter_count, rule, sample_gradients

__all__ = ["SampleGradients", "map_samples", "parameter_count", "rule", "sample_gradients"]
