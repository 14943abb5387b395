"""The stages of a Flax model as objects: who acts, and the dynamics one step at a time."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from gtddp_jax.flax_models.program import read
from gtddp_jax.flax_models.schedule import Evaluation, fixed_values
from gtddp_jax.network.program import Act

if TYPE_CHECKING:
    from gtddp_jax.flax_models.network import FlaxNetwork


@dataclasses.dataclass(frozen=True)
class FlaxStage:
    """One step of the state-augmented dynamics of a Flax model.

    Attributes:
        net: the network.
        index: the number of the stage.
        acts: the players that act at once; each `module` is a description from
            `gtddp_jax.players.layers`.
    """

    net: "FlaxNetwork"
    index: int
    acts: tuple[Act, ...]
    ops: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()

    @property
    def players(self) -> tuple[str, ...]:
        """Names of the players that act at once in this stage."""
        return tuple(act.name for act in self.acts)

    def __call__(self, params: Mapping[str, Any], states: tuple[Any, ...]) -> tuple[Any, ...]:
        """Maps the live states to the next ones, each [B, ...], of a model without randomness.

        The states before the first stage are the leaves of the inputs, which stay among the states;
        those after the last are the leaves of the outputs.
        """
        net = self.net
        n = net.input_structure.num_leaves
        inputs = jax.tree.unflatten(net.input_structure, states[:n])
        leaves, state = net.leaves(params), net.model.state
        reading = net.reading(leaves, state, {}, inputs)
        traced, plan = reading.traced, reading.plan
        start = traced.program.start(params=leaves, state=state, rngs={}, inputs=inputs)
        values = fixed_values(traced, plan, start)
        for value, x in zip(plan.live[self.index], states[n:], strict=True):
            values[value] = traced.axis(value).back(x)
        run = Evaluation(traced, plan, values)
        for index in plan.stages[self.index]:
            run.equation(index)
        if self.index + 1 == len(net.stages):
            return tuple(read(run.values, v) for v in traced.program.outputs[: traced.outputs])
        new = plan.live[self.index + 1]
        return (*states[:n], *(traced.axis(v).front(run.values[v]) for v in new))


def stages_of(net: "FlaxNetwork") -> tuple[FlaxStage, ...]:
    """The stages of a network."""
    reading = net.example
    acts: list[list[Act]] = [[] for _ in reading.plan.stages]
    for member in reading.members:
        form = reading.forms[member.name]
        acts[member.level].append(Act(member.name, form.layer, form.source, form.target))
    return tuple(FlaxStage(net, t, tuple(own)) for t, own in enumerate(acts))
