"""Training of Flax nnx modules with a function of losses."""

from gtddp_jax.flax_models.nnx_step import make_module_step as make_step
from gtddp_jax.flax_models.nnx_step import update_module as update

__all__ = ["make_step", "update"]
