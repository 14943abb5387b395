"""The sequential game on a network with shortcuts whose stage is chosen in training."""

import dataclasses
import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.report import SampleWeightObserver, StepObserver
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import Scalar, Tree
from gtddp_jax.curvature.diagonal import DiagonalCurvature
from gtddp_jax.curvature.from_optax import FromOptax
from gtddp_jax.sequential.placement_bandit import (
    MAX_PLACEMENTS,
    PlacementState,
    draw_placement,
    initial_placement_state,
    move_players,
    placement_probabilities,
    reward_placement,
)
from gtddp_jax.sequential.rollout import ROLLOUTS
from gtddp_jax.sequential.step import GTDDPState, SequentialGame


@dataclasses.dataclass(frozen=True)
class BanditGame(SequentialGame):
    """Plays one placement in each step, see `placement_bandit`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.curvature, (DiagonalCurvature, FromOptax)):
            raise ValueError(
                "gtddp: at='bandit' moves players between stages, for which the curvature must "
                "treat each player alone. Supported are SGD, RMSProp, Adam and FromOptax, got "
                f"{type(self.curvature).__name__}; give `at` a number."
            )
        if self.loss is None:
            raise ValueError(
                "gtddp: at='bandit' evaluates the loss once more after the step. Pass a loss and "
                "batch=(inputs, targets), or give `at` a number."
            )
        count = len(self._placed_games)
        if count > MAX_PLACEMENTS:
            raise ValueError(
                f"gtddp: the shortcuts with at='bandit' have {count} combinations of placements, "
                f"and each is one more game in the compiled step; at most {MAX_PLACEMENTS} are "
                "supported. Give `at` of some of them a number."
            )

    @functools.cached_property
    def _placed_games(self) -> tuple[SequentialGame, ...]:
        """The game for each placement."""
        names = [field.name for field in dataclasses.fields(SequentialGame)]
        fields = {name: getattr(self, name) for name in names}
        return tuple(SequentialGame(**{**fields, "net": net}) for net in self.net.placed_networks())

    @override
    def init_state(self, params: Tree, batch_stats: Tree) -> GTDDPState:
        count = len(self._placed_games)
        state = self._placed_games[0].init_state(params, batch_stats)
        for game in self._placed_games:
            like: Any = jax.eval_shape(game.init_state, params, batch_stats).curvature
            # Raises before the first step where players cannot be moved.
            move_players(state.curvature, like, frozenset(self.net.split(params)))
        placement = initial_placement_state(count)
        probabilities = placement_probabilities(placement)
        return state._replace(
            report=state.report._replace(placement_probabilities=probabilities),
            placement=placement,
        )

    @override
    def update_state(
        self,
        updates: Tree | None,
        state: GTDDPState,
        params: Tree,
        batch: Any,
        losses: Any,
        rngs: Any,
        observe: SampleWeightObserver | None = None,
        observe_step: StepObserver | None = None,
        extra_args: Mapping[str, object] = MappingProxyType({}),
    ) -> tuple[Tree, GTDDPState]:
        self._check_sources(params, batch, losses, rngs)
        self._check_arguments(updates, state, params)
        players = frozenset(self.net.split(params))
        assert isinstance(state.placement, PlacementState)
        placement, placement_state = draw_placement(state.placement)

        def play(game: SequentialGame) -> tuple[Tree, GTDDPState, list[Any], list[Any]]:
            moved: Any = jax.eval_shape(game.init_state, params, state.batch_stats).curvature
            curvature = move_players(state.curvature, moved, players)
            weights: list[Any] = []
            results: list[Any] = []
            step, after = game.update_state(
                updates,
                state._replace(curvature=curvature),
                params,
                batch,
                losses,
                rngs,
                weights.append,
                results.append,
                extra_args,
            )
            curvature = move_players(after.curvature, state.curvature, players)
            return step, after._replace(curvature=curvature), weights, results

        branches = [functools.partial(play, game) for game in self._placed_games]
        step, after, weights, results = jax.lax.switch(placement, branches)
        if observe is not None:
            observe(*weights)
        if observe_step is not None:
            observe_step(*results)
        if ROLLOUTS[self.rollout].replays:
            decrease = -after.report.actual_change
        else:
            new_params: Any = jax.tree.map(jnp.add, params, step)
            decrease = after.report.loss - self._mean_loss(new_params, state, batch, rngs)
        return step, after._replace(
            report=after.report._replace(
                placement_probabilities=placement_probabilities(placement_state)
            ),
            placement=reward_placement(placement_state, placement, decrease, ~after.report.skipped),
        )

    def _mean_loss(self, params: Tree, state: GTDDPState, batch: Any, rngs: Any) -> Scalar:
        """The mean loss of the batch with other parameters, as in training."""
        step_losses = self._step_losses(state, params, batch, None, rngs)
        samples = SampleReductions(self.net.batch_size(step_losses.inputs), self.axis_name)
        network_pass = self.net.forward(
            self.net.split(params),
            step_losses.inputs,
            step_losses.batch_stats,
            step_losses.device_keys(samples),
            samples,
            replayed=False,
        )
        return samples.mean(step_losses.per_sample(network_pass.outputs))


def sequential_game(**fields: Any) -> SequentialGame:
    """The game with these fields; with feedback it may have to choose placements."""
    game = SequentialGame(**fields)
    # Without feedback all placements are the same game.
    if game.feedback and len(game.net.placed_networks()) > 1:
        return BanditGame(**fields)
    return game
