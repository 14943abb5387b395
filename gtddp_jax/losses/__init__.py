"""The losses of a batch as one function that splits at the model's outputs."""

from gtddp_jax.losses.losses import Losses, LossesFn
from gtddp_jax.losses.training_step import StepOutput, make_step, value_and_update
from gtddp_jax.losses.value_and_grad import mean_loss, value_and_grad

__all__ = [
    "Losses",
    "LossesFn",
    "StepOutput",
    "make_step",
    "mean_loss",
    "value_and_grad",
    "value_and_update",
]
