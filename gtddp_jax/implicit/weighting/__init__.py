"""Sample weightings of the implicit game."""

from collections.abc import Callable
from typing import Any

from gtddp_jax.implicit.weighting.base import Prediction, SampleWeighting, WeightingContext
from gtddp_jax.implicit.weighting.newton import Newton
from gtddp_jax.implicit.weighting.product import Product
from gtddp_jax.implicit.weighting.sketch import Sketch
from gtddp_jax.implicit.weighting.tail import Tail
from gtddp_jax.terminal.gradient_flow import integrate_sample_weights
from gtddp_jax.terminal.scalar_equation import solve_sample_weights

WEIGHTINGS: dict[str, Callable[..., SampleWeighting[Any]]] = {
    "tail": Tail,
    "product": Product,
    "newton": Newton,
    "sketch": Sketch,
}
"""All sample weightings by name."""

__all__ = [
    "WEIGHTINGS",
    "Newton",
    "Prediction",
    "Product",
    "SampleWeighting",
    "Sketch",
    "Tail",
    "WeightingContext",
    "integrate_sample_weights",
    "solve_sample_weights",
]
