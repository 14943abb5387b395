"""Weight models of the implicit game (DESIGN §4)."""

from collections.abc import Callable

from gtddp_jax.simultaneous.weights.base import Prediction, WeightModel
from gtddp_jax.simultaneous.weights.newton import newton
from gtddp_jax.simultaneous.weights.product import product
from gtddp_jax.simultaneous.weights.tail import tail
from gtddp_jax.simultaneous.weights.trial import trial

WEIGHTS: dict[str, Callable[..., WeightModel]] = {
    "tail": tail,
    "product": product,
    "trial": trial,
    "newton": newton,
}
"""All weight models by name."""

__all__ = ["WEIGHTS", "Prediction", "WeightModel", "newton", "product", "tail", "trial"]
