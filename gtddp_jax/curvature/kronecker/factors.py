"""The statistics of a stage: factors, eigenbases and moments of its players, on a schedule.

| symbol | meaning                                          | here                           |
|--------|--------------------------------------------------|--------------------------------|
| A, B   | `E[x x^T]`, `E[V_h V_h^T]` (Table 1, Eq. 44)     | `input_factor`, `output_factor` |
| U      | their eigenvectors                               | `row_basis`, `column_basis`    |
| s      | second moments along U (EKFAC)                   | `moments`                      |
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from gtddp_jax.core.safety import tree_where
from gtddp_jax.core.types import Count, Flag, Number, Tree
from gtddp_jax.curvature.base import StageInputs
from gtddp_jax.curvature.kronecker.cooperation.base import Cooperation
from gtddp_jax.curvature.kronecker.eigenbases import (
    Eigenbasis,
    blank_eigenbasis,
    compute_eigenbasis,
)
from gtddp_jax.curvature.kronecker.eigenvalue_rule import EigenvalueRule, Moments, PlayerFactors
from gtddp_jax.curvature.kronecker.factor_statistics import (
    FactorOptions,
    observe_player,
    update_factors,
)
from gtddp_jax.curvature.kronecker.matrix_layouts import MatrixLayout
from gtddp_jax.curvature.kronecker.refresh_schedule import RefreshSchedule
from gtddp_jax.curvature.kronecker.running_factors import Factor, VectorWindow, empty_factor

Result = TypeVar("Result")
FactorPairs = dict[str, tuple[Factor, Factor]]
BasisTriples = dict[str, tuple[Eigenbasis, Eigenbasis, Moments]]


class FactorState(NamedTuple):
    """The statistics of a stage.

    Attributes:
        players: those of each Kronecker player.
        joint: those of the cooperation.
    """

    players: dict[str, PlayerFactors]
    joint: Tree


@dataclasses.dataclass(frozen=True)
class StageFactors:
    """Gathers the statistics of one stage. Static; the statistics are a `FactorState`.

    Attributes:
        cooperation: how the stage's Kronecker players act together.
        schedule: when factors are updated and decomposed.
        options: how factors are estimated.
        rule: KFAC's or EKFAC's eigenvalues.
    """

    cooperation: Cooperation[Any]
    schedule: RefreshSchedule
    options: FactorOptions
    rule: EigenvalueRule

    def init_state(self, dtype: jnp.dtype) -> FactorState:
        """The statistics before the first step."""
        players = {
            name: self._init_player(layout, dtype)
            for name, layout in self.cooperation.layouts.items()
        }
        return FactorState(players, self.cooperation.init_state(dtype))

    def windowed_players(self, state: FactorState) -> list[str]:
        """The players with a factor of low rank."""
        return [
            name
            for name, player in state.players.items()
            if isinstance(player.input_factor, VectorWindow)
            or isinstance(player.output_factor, VectorWindow)
        ]

    def _init_player(self, layout: MatrixLayout, dtype: jnp.dtype) -> PlayerFactors:
        def init_side(width: int) -> tuple[Factor, Eigenbasis]:
            rows = self.options.rows_to_keep(layout, width)
            rank = width if rows is None else rows
            factor = empty_factor(layout.groups, width, dtype, rows)
            return factor, blank_eigenbasis(layout.groups, width, rank, dtype)

        input_factor, row_basis = init_side(layout.rows)
        output_factor, column_basis = init_side(layout.columns)
        # In the first step the moments are replaced with the bases.
        moments = self.rule.initial_moments(row_basis, column_basis)
        return PlayerFactors(input_factor, output_factor, row_basis, column_basis, moments)

    def update_state(
        self, state: FactorState, inputs: StageInputs, step_count: Count, gamma: Number
    ) -> FactorState:
        """The statistics after one more step; `gamma` is the damping of joint factors.

        A batch in which no sample has a gradient changes no statistics.
        """
        first_player = next(iter(state.players.values()))
        # Until a batch with a gradient has come, every step is like the first and needs bases.
        step_count = jnp.where(first_player.input_factor.is_empty, 0, step_count)
        factors, joint = self._update_factors(state, inputs, step_count)
        bases, joint = self._refresh_bases(state, factors, joint, step_count, gamma)
        # EKFAC projects the gradient of this step on the bases of this step.
        factors_updated = self.schedule.is_factor_step(step_count)
        players = {}
        for name, layout in self.cooperation.layouts.items():
            player = PlayerFactors(*factors[name], *bases[name])
            observation = observe_player(name, layout, inputs)
            moments = self.rule.next_moments(player, observation, factors_updated)
            moments = tree_where(inputs.counted.any, moments, player.moments)
            players[name] = player._replace(moments=moments)
        return FactorState(players, joint)

    def _update_factors(
        self, state: FactorState, inputs: StageInputs, step_count: Count
    ) -> tuple[FactorPairs, Tree]:
        """The factors and the cooperation's statistics after this step's batch, if it counts."""
        old = {
            name: (player.input_factor, player.output_factor)
            for name, player in state.players.items()
        }

        def updated() -> tuple[FactorPairs, Tree]:
            factors = {
                name: update_factors(old[name], observe_player(name, layout, inputs), self.options)
                for name, layout in self.cooperation.layouts.items()
            }
            joint = self.cooperation.update_statistics(state.joint, inputs, self.options)
            after: Any = tree_where(inputs.counted.any, (factors, joint), (old, state.joint))
            return after

        # Players and cooperation share one condition, and so one branch of the program.
        due = None if self.schedule.updates_always else self.schedule.is_factor_step(step_count)
        return _if_due(due, updated, lambda: (old, state.joint))

    def _refresh_bases(
        self,
        state: FactorState,
        factors: FactorPairs,
        joint: Tree,
        step_count: Count,
        gamma: Number,
    ) -> tuple[BasisTriples, Tree]:
        """New bases of the factors, with new moments in them, if this is a refresh step."""
        old = {
            name: (player.row_basis, player.column_basis, player.moments)
            for name, player in state.players.items()
        }

        def refreshed() -> tuple[BasisTriples, Tree]:
            bases = {}
            for name, (input_factor, output_factor) in factors.items():
                row_basis = compute_eigenbasis(input_factor)
                column_basis = compute_eigenbasis(output_factor)
                # Moments are coordinates in the old bases and mean nothing in the new ones.
                moments = self.rule.initial_moments(row_basis, column_basis)
                bases[name] = row_basis, column_basis, moments
            return bases, self.cooperation.refresh_state(joint, gamma)

        due = None if self.schedule.refreshes_always else self.schedule.is_refresh_step(step_count)
        return _if_due(due, refreshed, lambda: (old, joint))


def _if_due(due: Flag | None, new: Callable[[], Result], old: Callable[[], Result]) -> Result:
    """`new()` where `due` holds, else `old()`; None means always, which needs no `cond`."""
    # Without a `cond` the compiler can fuse the update with the rest of the step.
    return new() if due is None else jax.lax.cond(due, new, old)
