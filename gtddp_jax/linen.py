"""Training of Flax linen models with a function of losses."""

from gtddp_jax.flax_models.train_state import TrainState

__all__ = ["TrainState"]
