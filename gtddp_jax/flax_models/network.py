"""`from_flax`: an existing Flax model as a game."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.flax_models.models import Model
from gtddp_jax.flax_models.program import read
from gtddp_jax.flax_models.reading import Reading, read_model
from gtddp_jax.flax_models.schedule import Evaluation, fixed_values

Tree = Any


def _signature(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)


class FlaxNetwork:
    """A Flax model as stages of players; made by `from_flax`.

    Attributes:
        stages: `stage.players` are the players that act at once; `stage(params, states)` maps the
            live states to the next ones, for `params` as `split` gives them. The inputs are among
            the states of every stage.
    """

    def __init__(
        self, model: Model, example: Any, streams: Sequence[str], unsupported: str
    ) -> None:
        self.model, self._unsupported = model, unsupported
        self._readings: dict[Any, Reading] = {}
        self._streams = tuple(streams)
        rngs = {name: jax.random.key(0) for name in self._streams}
        self._example = self._read(model.shapes, model.state, rngs, example)
        self.members = self._example.members
        count = 1 + max(member.level for member in self.members)
        self.input_structure = jax.tree.structure(example)
        self.stages = tuple(
            FlaxStage(self, t, tuple(m.name for m in self.members if m.level == t))
            for t in range(count)
        )

    @property
    def players(self) -> tuple[str, ...]:
        """All player names in the order in which they act."""
        return tuple(member.name for member in self.members)

    def _read(self, leaves: Sequence[Any], state: Tree, rngs: Tree, inputs: Any) -> Reading:
        key = tuple(map(_signature, (list(leaves), state, rngs, inputs)))
        if key not in self._readings:
            self._readings[key] = read_model(
                self.model, leaves, state, rngs, inputs, self._unsupported
            )
        return self._readings[key]

    def split(self, params: Tree) -> dict[str, dict[str, Any]]:
        """Parameters, or a tree of their structure, as `{player: {name: array}}`."""
        leaves = self.model.leaves(params)
        return {
            m.name: {key: leaves[i] for key, i in zip(m.keys, m.leaves, strict=True)}
            for m in self.members
        }

    def leaves(self, split: Mapping[str, Mapping[str, Any]]) -> list[Any]:
        """The inverse of `split`, as the model's list of leaves."""
        found: dict[int, Any] = {}
        for m in self.members:
            found |= {i: split[m.name][key] for key, i in zip(m.keys, m.leaves, strict=True)}
        return [found[i] for i in range(len(found))]


@dataclasses.dataclass(frozen=True)
class FlaxStage:
    """One step of the state-augmented dynamics of a Flax model.

    Attributes:
        net: the network.
        index: the number of the stage.
        players: who acts at once.
    """

    net: FlaxNetwork
    index: int
    players: tuple[str, ...]

    def __call__(self, params: Mapping[str, Any], states: tuple[Any, ...]) -> tuple[Any, ...]:
        """Maps the live states to the next live states, each [B, ...]."""
        net = self.net
        structure = net.input_structure
        n = structure.num_leaves
        inputs = jax.tree.unflatten(structure, states[:n])
        leaves = net.leaves(params)
        reading = net._read(leaves, net.model.state, {}, inputs)
        traced, plan = reading.traced, reading.plan
        start = traced.program.start(params=leaves, state=net.model.state, rngs={}, inputs=inputs)
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
