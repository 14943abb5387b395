"""Flax models as pure functions of parameters, other state, random keys and inputs.

| front-end | parameters                    | other state (`batch_stats`)                     |
|-----------|-------------------------------|-------------------------------------------------|
| linen     | `variables["params"]`         | `variables["batch_stats"]`, or more collections |
| nnx       | `nnx.state(model, nnx.Param)` | everything else: statistics, random streams     |
"""

import abc
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.errors import InvalidRngError

from gtddp_jax.core.types import Tree
from gtddp_jax.network.errors import NetworkError

Path = tuple[str, ...]
STATISTICS = "batch_stats"


def call(function: Any, inputs: Any, **options: Any) -> Any:
    """`function` of inputs: a tuple is positional arguments, a dict keywords, else one argument."""
    if isinstance(inputs, tuple):
        return function(*inputs, **options)
    if isinstance(inputs, dict):
        return function(**inputs, **options)
    return function(inputs, **options)


def path_names(path: Sequence[Any]) -> Path:
    """A path of a tree as names; nnx ends each with an attribute of the variable, left out."""
    parts = [p for p in path if not (isinstance(p, jax.tree_util.GetAttrKey) and p.name == "value")]
    return tuple(str(getattr(p, "key", getattr(p, "idx", getattr(p, "name", p)))) for p in parts)


def _paths(tree: Tree) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


@contextlib.contextmanager
def _naming_streams() -> Iterator[None]:
    """Turns Flax's complaint about a random stream into what to do about it."""
    try:
        yield
    except InvalidRngError as error:
        raise NetworkError(
            f"from_flax: {error}. Name all streams that the model draws from, for example "
            "rng_collections=('dropout', 'noise'), and pass their keys in rngs."
        ) from error


class Model(abc.ABC):
    """A model: immutable, knows its parameters by path.

    Attributes:
        paths: of the leaves of the parameters, in the order of `jax.tree.leaves`.
        shapes: their shapes and dtypes.
        structure: of the parameters, as the model itself wants them.
        state: shapes of the other state.
        rng_collections: random streams that it is given while it is read.
    """

    paths: tuple[Path, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    structure: Any
    state: Tree
    rng_collections: tuple[str, ...] = ()

    def _describe(self, params: Tree) -> None:
        found, self.structure = jax.tree_util.tree_flatten_with_path(params)
        self.paths = tuple(path_names(path) for path, _ in found)
        self.shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for _, x in found)

    def leaves(self, params: Tree) -> list[Any]:
        """The leaves of parameters, checked against the model's.

        Raises:
            NetworkError: they are not this model's parameters.
        """
        found = jax.tree_util.tree_flatten_with_path(params)[0]
        given = {path_names(path): leaf for path, leaf in found}
        missing = ["/".join(p) for p in self.paths if p not in given]
        extra = ["/".join(p) for p in given if p not in set(self.paths)]
        if missing or extra:
            raise NetworkError(
                "params do not match the model"
                + (f"; missing {missing[:5]}" if missing else "")
                + (f"; nobody claims {extra[:5]}" if extra else "")
                + f". {self.hint}"
            )
        for path, shape in zip(self.paths, self.shapes, strict=True):
            if jax.numpy.shape(given[path]) != shape.shape:
                raise NetworkError(
                    f"params: {'/'.join(path)} has shape {jax.numpy.shape(given[path])}, the model "
                    f"wants {shape.shape}."
                )
        return [given[path] for path in self.paths]

    def order(self, params: Tree) -> list[int]:
        """For each leaf of a tree of parameters, its position in `paths`."""
        places = {path: i for i, path in enumerate(self.paths)}
        return [places[path_names(p)] for p, _ in jax.tree_util.tree_flatten_with_path(params)[0]]

    hint = ""

    def initial_state(self, state: Tree) -> Tree:
        """The other state to begin with, checked.

        Raises:
            NetworkError: it is missing, or does not fit the model.
        """
        if state is None and jax.tree.leaves(self.state):
            raise NetworkError(
                "batch_stats is missing: the model keeps other variables than parameters, "
                f"{sorted({path_names(p)[-1] for p, _ in _paths(self.state)})}. Pass "
                'batch_stats=variables["batch_stats"], from model.init or net.init_variables; '
                "after a step take them from state.batch_stats."
            )
        given = {} if state is None else state
        before, after = (
            [(path_names(p), x.shape) for p, x in _paths(t)] for t in (self.state, given)
        )
        if before != after:
            wrong = sorted(set(before) ^ set(after))[:3]
            raise NetworkError(f"batch_stats do not match the model; differing: {wrong}.")
        return given

    def keys(self, rngs: Mapping[str, Any]) -> dict[str, Any]:
        """The random keys that the model takes; any will do where it draws nothing."""
        return {name: rngs.get(name, jax.random.key(0)) for name in self.rng_collections}

    @abc.abstractmethod
    def initialise(self, key: jax.Array, inputs: Any) -> tuple[Tree, Tree]:
        """Fresh parameters and other state."""

    @abc.abstractmethod
    def apply(
        self, leaves: Sequence[Any], state: Tree, rngs: Mapping[str, Any], inputs: Any, train: bool
    ) -> tuple[Any, Tree]:
        """Outputs and the next other state."""


class LinenModel(Model):
    """A `flax.linen` module."""

    hint = "Give variables['params'], as a TrainState holds them."

    def __init__(
        self,
        module: nn.Module,
        example: Any,
        method: Any,
        apply_kwargs: Mapping[str, Any],
        eval_kwargs: Mapping[str, Any],
        streams: Sequence[str],
    ) -> None:
        self._module, self._method = module, method
        self._train, self._eval = dict(apply_kwargs), dict(eval_kwargs)
        self.rng_collections: tuple[str, ...] = tuple(sorted(streams))
        with _naming_streams():
            variables = jax.eval_shape(self._init, jax.random.key(0), example)
        if "params" not in variables:
            raise NetworkError(f"from_flax: {type(module).__name__} has no parameters.")
        self.collections: tuple[str, ...] = tuple(sorted(set(variables) - {"params"}))
        self._describe(variables["params"])
        self.state: Tree = self._pack(variables)

    def _init(self, key: jax.Array, inputs: Any) -> Any:
        names = ("params", *self.rng_collections)
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        return call(
            lambda *a, **k: self._module.init(keys, *a, method=self._method, **k),
            inputs,
            **self._train,
        )

    def _pack(self, variables: Mapping[str, Any]) -> Tree:
        rest = {name: variables[name] for name in self.collections}
        return rest[STATISTICS] if tuple(rest) == (STATISTICS,) else rest

    def variables(self, params: Tree, state: Tree) -> dict[str, Any]:
        """What `module.apply` takes."""
        rest = {STATISTICS: state} if self.collections == (STATISTICS,) else dict(state or {})
        return {"params": params, **rest}

    def initialise(self, key: jax.Array, inputs: Any) -> tuple[Tree, Tree]:
        """See `Model`."""
        variables = jax.jit(self._init)(key, inputs)
        return variables["params"], self._pack(variables)

    def apply(
        self, leaves: Sequence[Any], state: Tree, rngs: Mapping[str, Any], inputs: Any, train: bool
    ) -> tuple[Any, Tree]:
        """See `Model`."""
        variables = self.variables(jax.tree.unflatten(self.structure, leaves), state)
        mutable = list(self.collections) if train else False

        def run(*args: Any, **kwargs: Any) -> Any:
            return self._module.apply(
                variables, *args, mutable=mutable, rngs=dict(rngs), method=self._method, **kwargs
            )

        with _naming_streams():
            if not train:
                return call(run, inputs, **self._eval), state
            outputs, updated = call(run, inputs, **self._train)
        return outputs, self._pack({**variables, **updated})


def as_model(
    module: Any,
    example: Any,
    method: Any,
    apply_kwargs: Mapping[str, Any],
    eval_kwargs: Mapping[str, Any],
    streams: Sequence[str],
) -> Model:
    """A linen or nnx module as a `Model`.

    Raises:
        NetworkError: it is neither.
    """
    if isinstance(module, nn.Module):
        return LinenModel(module, example, method, apply_kwargs, eval_kwargs, streams)
    from gtddp_jax.flax_models.nnx_models import NnxModel, is_nnx  # nnx is slow to import

    if is_nnx(module):
        return NnxModel(module, method, apply_kwargs, eval_kwargs)
    raise NetworkError(
        f"from_flax: model must be an instance of flax.linen.Module or flax.nnx.Module, got "
        f"{module!r}. For a plain function of parameters and inputs there is gtddp_jax.implicit."
    )
