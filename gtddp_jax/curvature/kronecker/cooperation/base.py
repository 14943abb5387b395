"""The contract of a cooperative mode."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Generic, TypeVar

import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.types import Number
from gtddp_jax.curvature.base import StageInputs
from gtddp_jax.curvature.kronecker.eigenvalue_rule import PlayerCurvature
from gtddp_jax.curvature.kronecker.factor_statistics import FactorOptions
from gtddp_jax.curvature.kronecker.operators import BlockDiagonal, CurvatureOperator, PlayerLayouts

CooperationState = TypeVar("CooperationState")


@dataclasses.dataclass(frozen=True)
class Cooperation(abc.ABC, Generic[CooperationState]):
    """How the Kronecker players of one stage act together. Static; its state is arrays.

    Attributes:
        layouts: the players' matrix forms, in the order of the stage.
    """

    layouts: PlayerLayouts

    @abc.abstractmethod
    def init_state(self, dtype: jnp.dtype) -> CooperationState:
        """The state that the cooperation keeps beside the players' own factors."""

    @abc.abstractmethod
    def update_statistics(
        self, state: CooperationState, inputs: StageInputs, options: FactorOptions
    ) -> CooperationState:
        """The state after the statistics of one more batch."""

    @abc.abstractmethod
    def refresh_state(self, state: CooperationState, gamma: Number) -> CooperationState:
        """The state with decompositions of its statistics, at damping gamma."""

    @abc.abstractmethod
    def make_operator(
        self, state: CooperationState, players: Mapping[str, PlayerCurvature], gamma: Number
    ) -> CurvatureOperator:
        """P of the stage, from the players' own curvatures and the state."""


class StatelessCooperation(Cooperation[tuple[()]]):
    """A cooperation that needs only the players' own factors."""

    @override
    def init_state(self, dtype: jnp.dtype) -> tuple[()]:
        del dtype
        return ()

    @override
    def update_statistics(
        self, state: tuple[()], inputs: StageInputs, options: FactorOptions
    ) -> tuple[()]:
        del inputs, options
        return state

    @override
    def refresh_state(self, state: tuple[()], gamma: Number) -> tuple[()]:
        del gamma
        return state


class SeparatePlayers(StatelessCooperation):
    """Each player alone."""

    @override
    def make_operator(
        self, state: tuple[()], players: Mapping[str, PlayerCurvature], gamma: Number
    ) -> CurvatureOperator:
        # The damping is already in the tables of the players.
        del state, gamma
        return BlockDiagonal(tuple(players[name].make_operator(name) for name in self.layouts))
