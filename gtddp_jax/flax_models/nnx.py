"""nnx modules as pure functions.

The parameters are `nnx.state(model, nnx.Param)`; the other state is everything else in the module:
running statistics and random streams.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from typing_extensions import override

from gtddp_jax.core.types import Batch, Tree
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.tracing.pure_model import CallOptions, PureModel, call_with_inputs

RNGS_ARGUMENT = "rngs"
"""The argument by which nnx modules take random streams in a call."""


class NnxModel(PureModel):
    """A `flax.nnx` module; its random streams are part of its state.

    Args:
        module: the module; its present parameters and state are the initial ones.
        options: how the module is called. An argument `rngs` takes `nnx.Rngs` with the streams of
            `rng_collections`, every other argument that takes a key the key itself.
    """

    params_hint = "Pass nnx.state(model, nnx.Param)."

    def __init__(
        self,
        module: nnx.Module,
        options: CallOptions,
    ) -> None:
        self._options = options
        self._takes_streams = RNGS_ARGUMENT in options.key_arguments
        streams = options.rng_collections if self._takes_streams else ()
        self._key_arguments = tuple(n for n in options.key_arguments if n != RNGS_ARGUMENT)
        self.rng_collections: tuple[str, ...] = tuple(sorted({*streams, *self._key_arguments}))
        self.evaluation_keys: tuple[str, ...] = tuple(
            name for name in self._key_arguments if name not in options.eval_kwargs
        )
        self.axes: tuple[Hashable, ...] = options.axes
        # nnx keeps everything in one object: the graph is its code, the rest its arrays.
        self._graph, params, state = nnx.split(module, nnx.Param, ...)
        if not jax.tree.leaves(params):
            raise NetworkError(f"from_flax: {type(module).__name__} has no parameters.")
        self._set_parameters(params)
        self._initial = nnx.as_pure(params), nnx.as_pure(state)
        self.state: Tree = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._initial[1]
        )
        self._state_structure = jax.tree.structure(state)

    @override
    def init_variables(self, key: jax.Array, inputs: Batch) -> tuple[Tree, Tree]:
        del key, inputs  # an nnx module is initialised when it is constructed
        return self._initial

    @override
    def initial_state(self, state: Tree | None) -> Tree:
        return super().initial_state(self._initial[1] if state is None else state)

    @override
    def random_keys(self, rngs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(rngs)  # each restarts the stream of its name; the other streams continue

    @override
    def apply(
        self,
        leaves: Sequence[Any],
        state: Tree,
        rngs: Mapping[str, Any],
        inputs: Batch,
        train: bool,
    ) -> tuple[Any, Tree]:
        params = jax.tree.unflatten(self.structure, leaves)
        variables = jax.tree.unflatten(self._state_structure, jax.tree.leaves(state))
        # A fresh module for each call: this one may be mutated.
        module = nnx.merge(self._graph, params, variables)
        own_streams = {n: rngs[n] for n in rngs if n not in self.rng_collections}
        if own_streams:
            nnx.reseed(module, **own_streams)
        if not train:
            module.eval()
        method = self._options.method
        function = module if method is None else getattr(module, method)
        kwargs = self._options.apply_kwargs if train else self._options.eval_kwargs
        outputs = call_with_inputs(function, inputs, **self._key_values(rngs), **kwargs)
        # The caller's own structure comes back, so that the state is a fixed point of a step.
        after = nnx.as_pure(nnx.state(module, nnx.Not(nnx.Param)))
        return outputs, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(after))

    def _key_values(self, rngs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that take keys."""
        values = {name: rngs[name] for name in self._key_arguments if name in rngs}
        if self._takes_streams:
            streams = {n: rngs[n] for n in self._options.rng_collections if n in rngs}
            # Without keys, in evaluation, there is nothing to draw from.
            values[RNGS_ARGUMENT] = nnx.Rngs(**streams)
        return values
