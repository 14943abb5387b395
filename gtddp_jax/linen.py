"""Training of Flax linen models with a function of losses."""

from gtddp_jax.flax_models.train_state import TrainState, apply_losses

__all__ = ["TrainState", "apply_losses"]
