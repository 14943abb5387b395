"""Networks as stages of state-augmented dynamics."""

from gtddp_jax.network.blocks import Cooperative, Parallel, Residual
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.facts import INPUTS, EdgeFacts, PlayerFacts, StageFacts, stage_facts
from gtddp_jax.network.fictitious_players import join_params, split, split_params
from gtddp_jax.network.network import Network
from gtddp_jax.network.program import AddOp, ConcatenateOp, FunctionOp, PlayerOp, Stage, StageOp
from gtddp_jax.network.pure_players import PurePlayer, player

__all__ = [
    "INPUTS",
    "AddOp",
    "ConcatenateOp",
    "Cooperative",
    "EdgeFacts",
    "FunctionOp",
    "Network",
    "NetworkError",
    "Parallel",
    "PlayerFacts",
    "PlayerOp",
    "PurePlayer",
    "Residual",
    "Stage",
    "StageFacts",
    "StageOp",
    "join_params",
    "player",
    "split",
    "split_params",
    "stage_facts",
]
