"""One batch through the stages of a `gt.Network`."""

from typing import Any

import jax
from typing_extensions import override

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import Inputs, Outputs, PerSample, PlayerTrees, Tree
from gtddp_jax.network import adjoints
from gtddp_jax.network.modes import BatchNormOp, Statistics
from gtddp_jax.network.program import Stage
from gtddp_jax.network.protocol import NetworkPass, PlayerTape
from gtddp_jax.network.sample_gradients import compute_sample_gradients


class StagePass(NetworkPass):
    """A batch through the bound stages of a `gt.Network`.

    Args:
        stages: as from `Network.bind`.
        params: `{player: tree}`.
        inputs: [B, ...].
        batch_stats: running statistics before the batch.
        normalizations: the network's batch normalizations.
        samples: the sample axis.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        params: PlayerTrees,
        inputs: Inputs,
        batch_stats: Statistics,
        normalizations: tuple[BatchNormOp, ...],
        samples: SampleReductions,
    ) -> None:
        self._stages, self._params = stages, params
        self._trajectory = adjoints.forward_pass(stages, params, inputs)
        self.outputs: Outputs = self._trajectory.outputs
        emitted = adjoints.synchronize_statistics(normalizations, self._trajectory, samples)
        self.batch_stats: Tree = {**batch_stats, **emitted}
        self._gradient: Any = None
        self._adjoints: adjoints.Adjoints | None = None
        self._new_states: tuple[jax.Array, ...] | None = None

    @override
    def player_tapes(self, gradient: Outputs, *, feedback: bool) -> list[dict[str, PlayerTape]]:
        """Propagates gradients backward; see `NetworkPass.player_tapes`.

        Args:
            gradient: the gradient of each sample's loss by the outputs.
            feedback: whether more than one sum over samples will be computed from a tape.
        """
        values = self._trajectory.values
        self._gradient = gradient
        self._adjoints = adjoints.backward_pass(self._stages, self._trajectory, self._gradient)
        player_ops = [player_op for stage in self._stages for player_op in stage.player_ops]
        tapes: dict[str, PlayerTape] = {}
        for player_op in player_ops:
            x, g = values[player_op.source], self._adjoints.player_outputs[player_op.target]
            gradients = compute_sample_gradients(
                player_op.module,
                player_op.apply,
                self._params[player_op.name],
                x,
                g,
                feedback=feedback,
            )
            tapes[player_op.name] = PlayerTape(x, g, gradients)
        return [
            {player_op.name: tapes[player_op.name] for player_op in stage.player_ops}
            for stage in self._stages
        ]

    @override
    def replay_stage(self, stage_number: int, new_params: PlayerTrees) -> PerSample:
        assert self._adjoints is not None, "player_tapes comes first"
        stage, values = self._stages[stage_number], self._trajectory.values
        # The first stage starts from the old states, the others from the replay so far.
        states = self._new_states
        if states is None:
            states = adjoints.stage_states(stage, values)
        self._new_states = stage(new_params, states)
        if stage_number + 1 < len(self._stages):
            old_states = adjoints.stage_states(self._stages[stage_number + 1], values)
            return adjoints.state_change(
                self._adjoints.states[stage_number + 1], self._new_states, old_states
            )
        return adjoints.state_change(
            (self._gradient,), self._new_states, (self._trajectory.outputs,)
        )

    @property
    @override
    def new_outputs(self) -> Outputs | None:
        return None if self._new_states is None else self._new_states[0]
