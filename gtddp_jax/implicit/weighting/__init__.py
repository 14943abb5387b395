"""Sample weightings of the implicit game."""

from collections.abc import Callable

from gtddp_jax.implicit.weighting.base import SampleWeighting, WeightingContext, WeightPrediction
from gtddp_jax.implicit.weighting.exact import Exact
from gtddp_jax.implicit.weighting.full import Full
from gtddp_jax.implicit.weighting.sketch import Sketch
from gtddp_jax.terminal.gradient_flow import integrate_sample_weights
from gtddp_jax.terminal.scalar_equation import solve_sample_weights

WEIGHTINGS: dict[str, Callable[..., SampleWeighting]] = {
    "sketch": Sketch,
    "full": Full,
    "exact": Exact,
}
"""All sample weightings by name."""

__all__ = [
    "WEIGHTINGS",
    "Exact",
    "Full",
    "SampleWeighting",
    "Sketch",
    "WeightPrediction",
    "WeightingContext",
    "integrate_sample_weights",
    "solve_sample_weights",
]
