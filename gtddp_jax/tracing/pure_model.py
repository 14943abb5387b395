"""A model as a pure function of parameters, other state, random keys and inputs.

Every front end (`gtddp_jax.flax_models.linen`, `gtddp_jax.flax_models.nnx`) is one subclass of
`PureModel`.
"""

import abc
import contextlib
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Batch, Tree
from gtddp_jax.network.errors import NetworkError

ParamPath: TypeAlias = tuple[str, ...]
"""Names from the root of a tree of parameters to a leaf."""


def call_with_inputs(function: Callable[..., Any], inputs: Batch, **options: Any) -> Any:
    """Calls a function with inputs: a tuple is positional arguments, a dict keyword arguments."""
    arguments: Any = inputs
    try:
        if isinstance(inputs, tuple):
            return function(*inputs, **options)
        if isinstance(inputs, dict):
            return function(**arguments, **options)
        return function(arguments, **options)
    except TypeError as error:
        if not re.search(r"missing \d+ required", str(error)):
            raise
        raise NetworkError(
            f"from_flax: {error}. Pass further inputs as a tuple or dict, "
            "from_flax(model, (x, mask)), fixed arguments as apply_kwargs={'train': True}, and "
            "arguments that take random keys by name, key_arguments=('rngs',)."
        ) from error


@contextlib.contextmanager
def axis_errors_with_advice() -> Iterator[None]:
    """Adds what to do to JAX's error about an unknown mapped axis."""
    try:
        yield
    except NameError as error:
        unbound = re.search(r"unbound axis name: (\w+)", str(error))
        if unbound is None:
            raise
        name = unbound[1]
        raise NetworkError(
            f"from_flax: the model communicates over the mapped axis {name!r}, as "
            f"nn.BatchNorm(axis_name={name!r}) does. Name the axis in both, gt.from_flax(model, x, "
            f"axis_name={name!r}) and gt.adam(net, ..., axis_name={name!r}), and step under "
            "jax.pmap or jax.shard_map; or leave it out of the model and use jit with a sharded "
            "batch."
        ) from error


class CallOptions(NamedTuple):
    """How a model is called besides its inputs; `from_flax` documents each field."""

    method: str | None
    apply_kwargs: Mapping[str, Any]
    eval_kwargs: Mapping[str, Any]
    rng_collections: tuple[str, ...]
    key_arguments: tuple[str, ...]
    axes: tuple[Hashable, ...]


def path_names(path: Sequence[Any]) -> ParamPath:
    """A key path of a tree as names.

    nnx ends each path with the attribute `value` of the variable, which is left out.
    """
    return tuple(
        str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))
        for key in path
        if not (isinstance(key, jax.tree_util.GetAttrKey) and key.name == "value")
    )


def named_leaves(tree: Tree) -> list[tuple[ParamPath, Any]]:
    """`(path, leaf)` of every leaf of a tree."""
    leaves_with_paths = jax.tree_util.tree_leaves_with_path(tree)
    return [(path_names(path), leaf) for path, leaf in leaves_with_paths]


class PureModel(abc.ABC):
    """An immutable model that knows its parameters by path.

    Attributes:
        paths: paths of the parameters, in the order of `jax.tree.leaves`.
        shapes: their shapes and dtypes.
        structure: the tree structure in which the model itself takes them.
        state: shapes and dtypes of the other state.
        rng_collections: the random streams that a training pass may draw from, arguments that take
            keys included.
        evaluation_keys: the arguments that take keys in evaluation too.
        axes: the mapped axes over which the model communicates.
        params_hint: ends the error about parameters that do not match, with the right expression.
    """

    paths: tuple[ParamPath, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    structure: Any
    state: Tree
    rng_collections: tuple[str, ...] = ()
    evaluation_keys: tuple[str, ...] = ()
    axes: tuple[Hashable, ...] = ()
    params_hint: str = ""

    def _set_parameters(self, params: Tree) -> None:
        """Fills in `paths`, `shapes` and `structure`."""
        leaves = named_leaves(params)
        self.structure = jax.tree.structure(params)
        self.paths = tuple(path for path, _ in leaves)
        self.shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for _, leaf in leaves)

    def parameter_leaves(self, params: Tree) -> list[Any]:
        """The leaves of a tree of parameters in the order of `paths`.

        Raises:
            NetworkError: the paths or shapes are not those of this model's parameters.
        """
        # By path, not by structure: users may hold the tree in another container than the model.
        given = dict(named_leaves(params))
        missing = ["/".join(path) for path in self.paths if path not in given]
        unexpected = ["/".join(path) for path in given if path not in set(self.paths)]
        if missing or unexpected:
            raise NetworkError(
                "params do not match the model"
                + (f"; missing: {missing[:5]}" if missing else "")
                + (f"; unexpected: {unexpected[:5]}" if unexpected else "")
                + f". {self.params_hint}"
            )
        for path, expected in zip(self.paths, self.shapes, strict=True):
            if jnp.shape(given[path]) != expected.shape:
                raise NetworkError(
                    f"params: {'/'.join(path)} has shape {jnp.shape(given[path])}, but the model "
                    f"expects {expected.shape}."
                )
        return [given[path] for path in self.paths]

    def leaf_positions(self, params: Tree) -> list[int]:
        """For each leaf of a tree of parameters, its position in `paths`."""
        # Trees of the same parameters may list their leaves in another order.
        positions = {path: position for position, path in enumerate(self.paths)}
        return [positions[path] for path, _ in named_leaves(params)]

    def initial_state(self, state: Tree | None) -> Tree:
        """Checks the other state to start from and returns it.

        Raises:
            NetworkError: it is missing or does not fit the model.
        """
        # A model without other state takes None.
        if state is None and jax.tree.leaves(self.state):
            raise NetworkError(
                "batch_stats is missing: the model keeps variables besides its parameters, "
                f"{sorted({path[-1] for path, _ in named_leaves(self.state)})}. Pass "
                'batch_stats=variables["batch_stats"], from model.init or net.init_variables; '
                "after a step, use state.batch_stats."
            )
        # The batch does not change the shapes of the state, so they must agree exactly.
        given: Tree = {} if state is None else state
        expected_shapes, given_shapes = (
            [(path, leaf.shape) for path, leaf in named_leaves(tree)]
            for tree in (self.state, given)
        )
        if expected_shapes != given_shapes:
            differing = sorted(set(expected_shapes) ^ set(given_shapes))[:3]
            raise NetworkError(f"batch_stats do not match the model; differing: {differing}.")
        return given

    def random_keys(self, rngs: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that the model takes; streams without a key get one that it does not use."""
        return {name: rngs.get(name, jax.random.key(0)) for name in self.rng_collections}

    @abc.abstractmethod
    def init_variables(self, key: jax.Array, inputs: Batch) -> tuple[Tree, Tree]:
        """Fresh parameters and other state."""

    @abc.abstractmethod
    def apply(
        self,
        leaves: Sequence[Any],
        state: Tree,
        rngs: Mapping[str, Any],
        inputs: Batch,
        train: bool,
    ) -> tuple[Any, Tree]:
        """The outputs and the next other state.

        Args:
            leaves: the parameters in the order of `paths`.
            state: the other state.
            rngs: random keys by stream or argument.
            inputs: as in `call_with_inputs`.
            train: whether this is a training pass.
        """
