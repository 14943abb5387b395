"""The implicit game: any model, any optax optimizer (DESIGN §4)."""

from gtddp_jax.simultaneous.game import ImplicitState
from gtddp_jax.simultaneous.optimizer import implicit, implicit_weights

__all__ = ["ImplicitState", "implicit", "implicit_weights"]
