"""GT-DDP, the game-theoretic differential dynamic programming optimizer, in optax style."""

from gtddp_jax import curvature, reference, terminal
from gtddp_jax.alias import adam, adamw, rmsprop, sgd
from gtddp_jax.core.report import Report
from gtddp_jax.network import Cooperative, Network, NetworkError, Residual, Stage
from gtddp_jax.optimizer import GTDDPState, gtddp, make_update
from gtddp_jax.simultaneous import ImplicitState, implicit, implicit_weights, weights

__all__ = [
    "Cooperative",
    "GTDDPState",
    "ImplicitState",
    "Network",
    "NetworkError",
    "Report",
    "Residual",
    "Stage",
    "adam",
    "adamw",
    "curvature",
    "gtddp",
    "implicit",
    "implicit_weights",
    "make_update",
    "reference",
    "rmsprop",
    "sgd",
    "terminal",
    "weights",
]
