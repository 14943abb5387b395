"""Traces a model once for every combination of input shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.samples import varying_axes
from gtddp_jax.core.types import Batch, PlayerTrees, Tree
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.tracing.pure_model import PureModel
from gtddp_jax.tracing.traced_model import TracedModel, trace_model
from gtddp_jax.tracing.traced_program import axis_sizes


class ModelTracer:
    """A model and its traces.

    Args:
        model: the model.
        example: an example of its inputs, or their shapes.
        unsupported: "generic" or "error", as in `from_flax`.

    Attributes:
        model: the model.
        input_structure: tree structure of the inputs.
        example_trace: the model at the shapes of the example. Every other trace has the same
            players and stages.
    """

    def __init__(self, model: PureModel, example: Batch, unsupported: str) -> None:
        self.model: PureModel = model
        self._unsupported = unsupported
        self._traces: dict[Any, TracedModel] = {}
        self.input_structure: Any = jax.tree.structure(example)
        rngs = {name: jax.random.key(0) for name in model.rng_collections}
        self.example_trace: TracedModel = self.trace(model.shapes, model.state, rngs, example)

    def trace(
        self, leaves: Sequence[Any], state: Tree, rngs: Mapping[str, Any], inputs: Batch
    ) -> TracedModel:
        """The model at these shapes and dtypes.

        Raises:
            NetworkError: the model is not supported, or it has other players or stages than with
                the example.
        """
        # A trace depends on shapes, dtypes and varying axes alone, like a compiled function of
        # jax.jit. Inside jax.shard_map, JAX marks where values begin to vary over the devices.
        # The number of devices is a number in the trace.
        devices = tuple(axis_sizes(self.model.axes).items())
        # Equations keep the mesh under which they were traced.
        mesh = jax.sharding.get_abstract_mesh()
        signature = (devices, mesh, *map(_tree_signature, (list(leaves), state, rngs, inputs)))
        if signature not in self._traces:
            traced = trace_model(self.model, leaves, state, rngs, inputs, self._unsupported)
            # The first trace is the example itself; the optimizer's state is laid out for it.
            if self._traces:
                _check_same_game(self.example_trace, traced)
            self._traces[signature] = traced
        return self._traces[signature]

    def split_leaves(self, leaves: Sequence[Any]) -> dict[str, dict[str, Any]]:
        """A list of leaves in the order of the model's parameters, as `{player: {name: leaf}}`."""
        return {
            player.name: {
                key: leaves[leaf] for key, leaf in zip(player.keys, player.leaves, strict=True)
            }
            for player in self.example_trace.players
        }

    def merge_leaves(self, params: PlayerTrees) -> list[Any]:
        """The inverse of `split_leaves`."""
        leaves: dict[int, Any] = {}
        for player in self.example_trace.players:
            player_params: Any = params[player.name]
            for key, leaf in zip(player.keys, player.leaves, strict=True):
                leaves[leaf] = player_params[key]
        return [leaves[leaf] for leaf in range(len(leaves))]


def _tree_signature(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(
        (jnp.shape(leaf), jnp.result_type(leaf), varying_axes(leaf)) for leaf in leaves
    )


def _check_same_game(example: TracedModel, traced: TracedModel) -> None:
    expected, given = (
        [(player.name, player.leaves, player.stage_index) for player in each.players]
        for each in (example, traced)
    )
    if expected != given:
        raise NetworkError(
            "from_flax: with these inputs, the model has other players or stages than with the "
            f"example ({len(expected)} and {len(given)} players). Give from_flax an example like "
            "the batches that follow."
        )
