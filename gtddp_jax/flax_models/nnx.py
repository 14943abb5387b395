"""nnx modules as pure functions.

The parameters are `nnx.state(model, nnx.Param)`; the other state is everything else in the module:
running statistics and random streams.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from typing_extensions import override

from gtddp_jax.core.types import Batch, Tree
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.tracing.pure_model import PureModel, call_with_inputs


class NnxModel(PureModel):
    """A `flax.nnx` module; its random streams are part of its state.

    Args:
        module: the module; its present parameters and state are the initial ones.
        method: name of the method to call; None for `__call__`.
        apply_kwargs: further arguments of a training pass.
        eval_kwargs: further arguments of an evaluation pass.
    """

    params_hint = "Pass nnx.state(model, nnx.Param)."

    def __init__(
        self,
        module: nnx.Module,
        method: str | None,
        apply_kwargs: Mapping[str, Any],
        eval_kwargs: Mapping[str, Any],
    ) -> None:
        self._method = method
        self._apply_kwargs, self._eval_kwargs = dict(apply_kwargs), dict(eval_kwargs)
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
        if rngs:
            nnx.reseed(module, **rngs)
        if not train:
            module.eval()
        function = module if self._method is None else getattr(module, self._method)
        kwargs = self._apply_kwargs if train else self._eval_kwargs
        outputs = call_with_inputs(function, inputs, **kwargs)
        # The caller's own structure comes back, so that the state is a fixed point of a step.
        after = nnx.as_pure(nnx.state(module, nnx.Not(nnx.Param)))
        return outputs, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(after))
