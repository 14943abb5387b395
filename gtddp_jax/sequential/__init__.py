"""The sequential game: policies from the last stage to the first, then steps with feedback."""

from gtddp_jax.sequential.optimizer import DEFAULT_BOUNDS
from gtddp_jax.sequential.rollout import ROLLOUTS

__all__ = ["DEFAULT_BOUNDS", "ROLLOUTS"]
