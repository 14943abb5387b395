"""Linen modules as pure functions.

The parameters are `variables["params"]`; the other state is `variables["batch_stats"]`, or a dict
of all other collections by name if the module has more than that one.
"""

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.errors import InvalidRngError
from typing_extensions import override

from gtddp_jax.core.types import Batch, Tree
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.tracing.pure_model import (
    CallOptions,
    PureModel,
    axis_errors_with_advice,
    call_with_inputs,
)

STATISTICS = "batch_stats"


@contextlib.contextmanager
def _rng_errors_with_advice() -> Iterator[None]:
    """Adds what to do to Flax's error about an unknown random stream."""
    try:
        yield
    except InvalidRngError as error:
        raise NetworkError(
            f"from_flax: {error}. Name all streams that the model draws from, for example "
            "rng_collections=('dropout', 'noise'), and pass their keys in rngs."
        ) from error


class LinenModel(PureModel):
    """A `flax.linen` module.

    Args:
        module: the module.
        example: inputs, or their shapes.
        options: how the module is called.
    """

    params_hint = "Pass variables['params'], as in a TrainState."

    def __init__(
        self,
        module: nn.Module,
        example: Batch,
        options: CallOptions,
    ) -> None:
        self._module, self._options = module, options
        # A key that an argument takes is a stream that only this argument draws from.
        self._streams = tuple(sorted(set(options.rng_collections) - set(options.key_arguments)))
        self.rng_collections: tuple[str, ...] = tuple(
            sorted({*options.rng_collections, *options.key_arguments})
        )
        self.evaluation_keys: tuple[str, ...] = tuple(
            name for name in options.key_arguments if name not in options.eval_kwargs
        )
        self.axes: tuple[Hashable, ...] = options.axes
        with _rng_errors_with_advice(), axis_errors_with_advice():
            variables = jax.eval_shape(self._init_module, jax.random.key(0), example)
        # A module without parameters has no such collection.
        if "params" not in variables:
            raise NetworkError(f"from_flax: {type(module).__name__} has no parameters.")
        self._collections = tuple(sorted(set(variables) - {"params"}))
        self._set_parameters(variables["params"])
        self.state: Tree = self._pack_state(variables)

    def _init_module(self, key: jax.Array, inputs: Batch) -> Any:
        names = ("params", *self.rng_collections)
        # Every stream gets its own key, or streams of the same length would draw the same numbers.
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))

        arguments = {name: keys.pop(name) for name in self._options.key_arguments}

        def init(*args: Any, **kwargs: Any) -> Any:
            return self._module.init(keys, *args, method=self._options.method, **kwargs)

        return call_with_inputs(init, inputs, **arguments, **self._options.apply_kwargs)

    def _pack_state(self, variables: Mapping[str, Any]) -> Tree:
        """The other state in the form in which users hold it."""
        if self._collections == (STATISTICS,):
            return variables[STATISTICS]
        return {name: variables[name] for name in self._collections}

    def _unpack_state(self, state: Any) -> dict[str, Any]:
        """The inverse of `_pack_state`: collections by name."""
        return {STATISTICS: state} if self._collections == (STATISTICS,) else dict(state or {})

    @override
    def init_variables(self, key: jax.Array, inputs: Batch) -> tuple[Tree, Tree]:
        # Compiled: initialisers one by one would take much longer.
        variables = jax.jit(self._init_module)(key, inputs)
        return variables["params"], self._pack_state(variables)

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
        variables = {"params": params, **self._unpack_state(state)}
        mutable = list(self._collections) if train else False

        streams = {name: rngs[name] for name in self._streams if name in rngs}
        arguments = {name: rngs[name] for name in self._options.key_arguments if name in rngs}

        def apply_module(*args: Any, **kwargs: Any) -> Any:
            return self._module.apply(
                variables,
                *args,
                mutable=mutable,
                rngs=streams,
                method=self._options.method,
                **arguments,
                **kwargs,
            )

        with _rng_errors_with_advice():
            if not train:
                return call_with_inputs(apply_module, inputs, **self._options.eval_kwargs), state
            # Only mutable collections are returned; frozen ones stay as they were.
            outputs, updated = call_with_inputs(apply_module, inputs, **self._options.apply_kwargs)
        return outputs, self._pack_state({**variables, **updated})
