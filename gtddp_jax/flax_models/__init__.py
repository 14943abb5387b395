"""Existing Flax models as games: read from the traced program."""

from gtddp_jax.flax_models.network import FlaxNetwork, from_flax

__all__ = ["FlaxNetwork", "from_flax"]
