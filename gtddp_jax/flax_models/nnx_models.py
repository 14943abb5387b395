"""nnx modules as `Model`s."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from gtddp_jax.flax_models.models import Model, Tree, call
from gtddp_jax.network.errors import NetworkError


def is_nnx(module: Any) -> bool:
    """Whether something is an nnx module."""
    return isinstance(module, nnx.Module)


class NnxModel(Model):
    """A `flax.nnx` module; its random streams are part of its state."""

    hint = "Give nnx.state(model, nnx.Param)."

    def __init__(
        self,
        module: nnx.Module,
        method: Any,
        apply_kwargs: Mapping[str, Any],
        eval_kwargs: Mapping[str, Any],
    ) -> None:
        self._method = method
        self._train, self._eval = dict(apply_kwargs), dict(eval_kwargs)
        self._graph, params, rest = nnx.split(module, nnx.Param, ...)
        if not jax.tree.leaves(params):
            raise NetworkError(f"from_flax: {type(module).__name__} has no parameters.")
        self._describe(params)
        self._initial = nnx.as_pure(params), nnx.as_pure(rest)
        self.state: Any = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._initial[1]
        )
        self._rest = jax.tree.structure(rest)

    def initialise(self, key: jax.Array, inputs: Any) -> tuple[Tree, Tree]:
        """The parameters and state that the module held when it was given."""
        del key, inputs
        return self._initial

    def initial_state(self, state: Tree) -> Tree:
        """See `Model`; by default what the module held when it was given."""
        return super().initial_state(self._initial[1] if state is None else state)

    def keys(self, rngs: Mapping[str, Any]) -> dict[str, Any]:
        """All random keys: they restart the streams of their names."""
        return dict(rngs)

    def apply(
        self, leaves: Sequence[Any], state: Tree, rngs: Mapping[str, Any], inputs: Any, train: bool
    ) -> tuple[Any, Tree]:
        """See `Model`."""
        params = jax.tree.unflatten(self.structure, leaves)
        rest = jax.tree.unflatten(self._rest, jax.tree.leaves(state))
        module = nnx.merge(self._graph, params, rest)
        if rngs:
            nnx.reseed(module, **rngs)
        if not train:
            module.eval()
        function = module if self._method is None else getattr(module, self._method)
        outputs = call(function, inputs, **(self._train if train else self._eval))
        after = nnx.as_pure(nnx.state(module, nnx.Not(nnx.Param)))
        return outputs, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(after))
