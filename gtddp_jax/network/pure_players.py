"""Players from other sources than linen: pairs of pure functions, nnx and Equinox modules.

Each becomes a linen module with one parameter, the tree of all of its arrays.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from gtddp_jax.core.types import Inputs, Tree
from gtddp_jax.network.errors import NetworkError

InitFn: TypeAlias = Callable[..., Any]
"""`init(key, x) -> params`, or of stax `init(key, shape) -> (output shape, params)`."""

ApplyFn: TypeAlias = Callable[..., Any]
"""`apply(params, x [B, ...]) -> [B, ...]`."""


class PurePlayer(nn.Module):
    """A player by two pure functions; made by `player`.

    Attributes:
        init_params: `(key, x) -> params`.
        apply_params: `(params, x) -> outputs`.
        label: what it is called in messages and tables.
        origin: the module that it was made from, or None.
    """

    init_params: InitFn
    apply_params: ApplyFn
    label: str = "PurePlayer"
    origin: Any = None

    @nn.compact
    def __call__(self, x: Inputs) -> jax.Array:
        """The outputs [B, ...] for inputs [B, ...]."""
        # The name under which the tree stands in the player's parameters.
        params = self.param("arrays", self.init_params, x)
        return self.apply_params(params, x)


def player(
    init: InitFn, apply: ApplyFn, *, name: str | None = None, takes_shape: bool = False
) -> PurePlayer:
    """A layer of a network by two pure functions, as a player.

    It stands wherever a linen module may stand in `Network`, `Residual` and `Cooperative`. Modules
    of nnx and Equinox may stand there as they are: their arrays are the initial parameters.

    Args:
        init: `init(key, x) -> params`: any tree of arrays for inputs x [B, ...].
        apply: `apply(params, x) -> outputs`, [B, ...]; it must keep samples apart.
        name: the name of the player, the key of its parameters `{"arrays": params}`; by default
            `PurePlayer_0`, `PurePlayer_1`, ...
        takes_shape: whether `init` is in the style of stax: `init(key, x.shape) -> (output shape,
            params)`.

    Raises:
        NetworkError: `init` or `apply` is not callable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> init = lambda key, x: 0.1 * jax.random.normal(key, (x.shape[-1], 4))
        >>> net = gt.Network([gt.player(init, lambda w, x: x @ w, name="linear"), jnp.tanh])
        >>> net.init(jax.random.key(0), jnp.ones((2, 3)))["linear"]["arrays"].shape
        (3, 4)
    """
    for role, function in (("init", init), ("apply", apply)):
        if not callable(function):
            raise NetworkError(f"player: {role} must be a function, got {function!r}.")
    if not takes_shape:
        return PurePlayer(init, apply, name=name)

    def init_by_shape(key: PRNGKeyArray, x: Inputs) -> Tree:
        _, params = init(key, jnp.shape(x))
        return params

    return PurePlayer(init_by_shape, apply, name=name)


def as_linen(layer: Any) -> Any:
    """A module of nnx or Equinox as a linen module; anything else as it is."""
    # By name: not every user has Equinox, and nnx takes long to import.
    for base in type(layer).__mro__:
        if base.__name__ == "Module" and base.__module__.startswith("flax.nnx."):
            return _from_nnx(layer)
        if base.__name__ == "Module" and base.__module__.startswith("equinox."):
            return _from_equinox(layer)
    return layer


def _from_nnx(module: Any) -> PurePlayer:
    """The player whose initial parameters are those of the module."""
    from flax import nnx

    graph, params, rest = nnx.split(module, nnx.Param, ...)
    if jax.tree.leaves(rest):
        variables = jax.tree.leaves(rest, is_leaf=lambda node: isinstance(node, nnx.Variable))
        kinds = sorted({type(variable).__name__ for variable in variables})
        raise NetworkError(
            f"{type(module).__name__}: an nnx module in a stage list may have parameters only, but "
            f"this one has {', '.join(kinds)}. Use the linen layer (nn.BatchNorm, nn.Dropout), or "
            "the whole model through gt.from_flax or a function of losses."
        )

    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    # The last entry of a path is the value of a variable.
    values = {_path_name(path[:-1]): leaf for path, leaf in leaves}

    def apply(params: Tree, x: Inputs) -> Any:
        arrays: Any = params
        state = jax.tree.unflatten(structure, [arrays[name] for name in values])
        merged: Any = nnx.merge(graph, state)
        return merged(x)

    return _player_of(module, values, apply)


def _from_equinox(module: Any) -> PurePlayer:
    """The player whose initial parameters are the module's arrays; it is mapped over samples."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(module)
    values = {
        _path_name(path): leaf
        for path, leaf in leaves
        if isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    }

    def apply(params: Tree, x: Inputs) -> Any:
        arrays: Any = params
        current = [arrays.get(_path_name(path), leaf) for path, leaf in leaves]
        return jax.vmap(jax.tree.unflatten(structure, current))(x)

    return _player_of(module, values, apply)


def _player_of(module: Any, values: dict[str, Any], apply: ApplyFn) -> PurePlayer:
    """The player of a module with its arrays by name."""

    def init(key: PRNGKeyArray, x: Inputs) -> Tree:
        del key, x
        return {name: jnp.asarray(value) for name, value in values.items()}

    return PurePlayer(init, apply, label=type(module).__name__, origin=module)


def _path_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
