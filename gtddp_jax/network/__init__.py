"""Networks as stages of state-augmented dynamics."""

from gtddp_jax.network.blocks import Cooperative, Residual
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.network import Network
from gtddp_jax.network.program import Stage

__all__ = ["Cooperative", "Network", "NetworkError", "Residual", "Stage"]
