"""GT-DDP, the game-theoretic differential dynamic programming optimizer, in optax style."""

from gtddp_jax import curvature, reference, terminal
from gtddp_jax.alias import adam, adamw, ekfac, kfac, rmsprop, scale_by_gt_ekfac, sgd
from gtddp_jax.core.report import Report
from gtddp_jax.flax_models import FlaxNetwork, from_flax
from gtddp_jax.game.sequential import GTDDPState
from gtddp_jax.network import Cooperative, Network, NetworkError, Residual, Stage
from gtddp_jax.optimizer import gtddp, make_update
from gtddp_jax.simultaneous import ImplicitState, implicit, implicit_weights, weights
from gtddp_jax.verify import Verification, verify

__version__ = "0.1.0"

__all__ = [
    "Cooperative",
    "FlaxNetwork",
    "GTDDPState",
    "ImplicitState",
    "Network",
    "NetworkError",
    "Report",
    "Residual",
    "Stage",
    "Verification",
    "adam",
    "adamw",
    "curvature",
    "ekfac",
    "from_flax",
    "gtddp",
    "implicit",
    "implicit_weights",
    "kfac",
    "make_update",
    "reference",
    "rmsprop",
    "scale_by_gt_ekfac",
    "sgd",
    "terminal",
    "verify",
    "weights",
]
