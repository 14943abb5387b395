"""The contract of a cooperative mode."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import Number
from gtddp_jax.curvature.base import Move
from gtddp_jax.kronecker.bases import Basis, Table
from gtddp_jax.kronecker.layouts import Layout
from gtddp_jax.kronecker.operators import Alone, Operator, Together

State = Any


class Own(NamedTuple):
    """What a player knows of itself.

    Attributes:
        left: eigenbasis of its inputs' factor.
        right: eigenbasis of its outputs' factor.
        curvature: undamped.
        scale: the table of P, damped.
    """

    left: Basis
    right: Basis
    curvature: Table
    scale: Table

    def operator(self, name: str) -> Alone:
        """The player's own P."""
        return Alone(name, self.left, self.right, self.scale)


class Batch(NamedTuple):
    """What a step shows to the statistics.

    Attributes:
        moves: the players' moves.
        alpha: the weights of the samples, [B].
        positions: "expand" or "reduce".
        decay: factor on the weight of older batches.
        samples: the sample axis.
    """

    moves: Mapping[str, Move]
    alpha: jax.Array
    positions: str
    decay: float
    samples: Samples


@dataclasses.dataclass(frozen=True)
class Cooperation(abc.ABC):
    """How the Kronecker players of one stage act together. Static; its state is arrays.

    Attributes:
        layouts: the players' matrix forms, in the order of the stage.
    """

    layouts: Mapping[str, Layout]

    def init(self, dtype: Any) -> State:
        """State beside the players' own; none by default."""
        del dtype
        return ()

    def observe(self, state: State, batch: Batch) -> State:
        """The state after the statistics of one more batch."""
        del batch
        return state

    def refresh(self, state: State, gamma: Number) -> State:
        """The state after decompositions are made anew, with damping gamma."""
        del gamma
        return state

    @abc.abstractmethod
    def operator(self, state: State, own: Mapping[str, Own], gamma: Number) -> Operator:
        """P of the stage."""


class Separate(Cooperation):
    """Every player alone."""

    def operator(self, state: State, own: Mapping[str, Own], gamma: Number) -> Operator:
        """See `Cooperation`."""
        del state, gamma
        return Together(
            tuple(own[name].operator(name) for name in self.layouts),
            tuple((name,) for name in self.layouts),
        )
