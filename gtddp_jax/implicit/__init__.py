"""The implicit game: any model, nearly any optax optimizer."""

from gtddp_jax.implicit.optimizer import implicit, implicit_weights
from gtddp_jax.implicit.step import ImplicitState

__all__ = ["ImplicitState", "implicit", "implicit_weights"]
