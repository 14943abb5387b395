"""GT-DDP, the game-theoretic differential dynamic programming optimizer, in optax style."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from gtddp_jax import curvature, linen, reference, terminal
from gtddp_jax.core.game_warning import GameWarning
from gtddp_jax.core.report import Report
from gtddp_jax.explain import explain, explain_losses
from gtddp_jax.flax_models import from_flax
from gtddp_jax.implicit import ImplicitState, implicit, implicit_weights, weighting
from gtddp_jax.joint import (
    JointReport,
    JointState,
    RowsStep,
    Term,
    damping,
    joint,
    metrics,
    step_control,
    step_from_rows,
    supervised_term,
)
from gtddp_jax.losses import (
    Losses,
    StepOutput,
    make_step,
    mean_loss,
    value_and_grad,
    value_and_update,
)
from gtddp_jax.network import (
    Cooperative,
    Network,
    NetworkError,
    Parallel,
    Residual,
    Stage,
    join_params,
    player,
    split,
    split_params,
)
from gtddp_jax.reference.verify import Verification, verify
from gtddp_jax.sequential.alias import (
    adam,
    adamw,
    ekfac,
    kfac,
    rmsprop,
    scale_by_gt_ekfac,
    sgd,
    soap,
)
from gtddp_jax.sequential.optimizer import gtddp, make_update
from gtddp_jax.sequential.paper import paper_gtddp
from gtddp_jax.sequential.step import GTDDPState
from gtddp_jax.tracing.traced_network import TracedNetwork

if TYPE_CHECKING:
    from gtddp_jax import nnx

__version__ = "0.1.0"

__all__ = [
    "Cooperative",
    "GTDDPState",
    "GameWarning",
    "ImplicitState",
    "JointReport",
    "JointState",
    "Losses",
    "Network",
    "NetworkError",
    "Parallel",
    "Report",
    "Residual",
    "RowsStep",
    "Stage",
    "StepOutput",
    "Term",
    "TracedNetwork",
    "Verification",
    "adam",
    "adamw",
    "curvature",
    "damping",
    "ekfac",
    "explain",
    "explain_losses",
    "from_flax",
    "gtddp",
    "implicit",
    "implicit_weights",
    "join_params",
    "joint",
    "kfac",
    "linen",
    "make_step",
    "make_update",
    "mean_loss",
    "metrics",
    "nnx",
    "paper_gtddp",
    "player",
    "reference",
    "rmsprop",
    "scale_by_gt_ekfac",
    "sgd",
    "soap",
    "split",
    "split_params",
    "step_control",
    "step_from_rows",
    "supervised_term",
    "terminal",
    "value_and_grad",
    "value_and_update",
    "verify",
    "weighting",
]


def __getattr__(name: str) -> ModuleType:
    """Imports `gtddp_jax.nnx` when it is first used: `flax.nnx` takes half a second to import."""
    if name == "nnx":
        return importlib.import_module("gtddp_jax.nnx")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
