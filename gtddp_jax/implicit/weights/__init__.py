"""Weight models of the implicit game (DESIGN §4)."""

from gtddp_jax.implicit.weights.base import Prediction, WeightModel
from gtddp_jax.implicit.weights.newton import newton
from gtddp_jax.implicit.weights.product import product
from gtddp_jax.implicit.weights.tail import tail
from gtddp_jax.implicit.weights.trial import trial

WEIGHTS = {"tail": tail, "product": product, "trial": trial, "newton": newton}
"""All weight models by name."""

__all__ = ["WEIGHTS", "Prediction", "WeightModel", "newton", "product", "tail", "trial"]
