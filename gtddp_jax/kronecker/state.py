"""What KFAC and EKFAC remember of a stage."""

from typing import Any, NamedTuple

import jax

from gtddp_jax.kronecker.averages import Factor
from gtddp_jax.kronecker.bases import Basis


class Player(NamedTuple):
    """The curvature state of one player.

    Attributes:
        inputs: factor of a.
        outputs: factor of b.
        left: eigenbasis of `inputs`.
        right: eigenbasis of `outputs`.
        moments: second moments in the bases (EKFAC), or `()`.
    """

    inputs: Factor
    outputs: Factor
    left: Basis
    right: Basis
    moments: Any


class KroneckerState(NamedTuple):
    """The curvature state of one stage.

    Attributes:
        count: int32, number of steps.
        players: `{player: Player}`.
        joint: state of the cooperation.
        chain: momentum, weight decay and learning rate.
        other: state of the players without a Kronecker form, under their own method.
    """

    count: jax.Array
    players: dict[str, Player]
    joint: Any
    chain: Any
    other: Any
