"""A batch through a stage list."""

from typing import Any

import jax

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import Inputs, Outputs, PerSample, Tree
from gtddp_jax.curvature.base import Move
from gtddp_jax.game import adjoints
from gtddp_jax.network.modes import Normalise
from gtddp_jax.network.program import Stage
from gtddp_jax.network.protocol import Pass, Players
from gtddp_jax.players import sample_gradients


class StagePass(Pass):
    """A batch through the bound stages of a `gt.Network`.

    Args:
        stages: as from `Network.bind`.
        params: `{player: tree}`.
        inputs: [B, ...].
        batch_stats: running statistics before the batch.
        normalisations: the network's batch normalisations.
        samples: the sample axis.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        params: Players,
        inputs: Inputs,
        batch_stats: Tree,
        normalisations: tuple[Normalise, ...],
        samples: Samples,
    ) -> None:
        self._stages, self._params = stages, params
        self._trajectory = adjoints.forward(stages, params, inputs)
        self.outputs: Outputs = self._trajectory.outputs
        emitted = adjoints.common_statistics(normalisations, self._trajectory, samples)
        self.batch_stats: Tree = {**batch_stats, **emitted}
        self._gradient: Any = None
        self._adjoints: adjoints.Adjoints | None = None
        self._states: tuple[jax.Array, ...] | None = None

    def moves(self, gradient: Outputs, *, feedback: bool) -> list[dict[str, Move]]:
        """See `Pass`."""
        values = self._trajectory.values
        back = adjoints.backward(self._stages, self._trajectory, gradient)
        self._gradient, self._adjoints = gradient, back
        return [
            {
                act.name: Move(
                    values[act.source],
                    back.moves[act.target],
                    sample_gradients(
                        act,
                        self._params[act.name],
                        values[act.source],
                        back.moves[act.target],
                        feedback=feedback,
                    ),
                )
                for act in stage.acts
            }
            for stage in self._stages
        ]

    def replay(self, t: int, new: Players) -> PerSample:
        """See `Pass`."""
        assert self._adjoints is not None, "the moves come first"
        stage, values = self._stages[t], self._trajectory.values
        states = adjoints.stage_states(stage, values) if self._states is None else self._states
        self._states = stage(new, states)
        if t + 1 < len(self._stages):
            before = adjoints.stage_states(self._stages[t + 1], values)
            return adjoints.state_change(self._adjoints.states[t + 1], self._states, before)
        return adjoints.state_change((self._gradient,), self._states, (self.outputs,))

    @property
    def new_outputs(self) -> Outputs | None:
        """See `Pass`."""
        return None if self._states is None else self._states[0]
