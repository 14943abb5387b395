"""Players in matrix form: a parameter tree as `[groups, rows, columns]`, a sample as vectors.

| symbol | meaning                                             | shape                      |
|--------|-----------------------------------------------------|----------------------------|
| a      | what the parameters multiply, the bias's 1 appended | [B, S, groups, rows]       |
| b      | adjoint of the player's output, g_h                 | [B, S, groups, columns]    |
| G_i    | per-sample gradient, `sum_s a_is b_is^T`            | [groups, rows, columns]    |

S counts positions: 1 for a dense layer on [B, d], pixels for a convolution, tokens for a dense
layer on [B, T, d]. A new kind of layer is one subclass and one line in `LAYOUTS`.
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.trees import wide
from gtddp_jax.core.types import Tree
from gtddp_jax.network.program import Act
from gtddp_jax.players import conv
from gtddp_jax.players.rules import kind


@dataclasses.dataclass(frozen=True)
class Layout(abc.ABC):
    """The matrix form of one player.

    Attributes:
        module: its flax module or description.
        groups: independent blocks (feature groups of a convolution).
        rows: length of a, bias included.
        columns: length of b.
    """

    module: Any
    groups: int
    rows: int
    columns: int

    @classmethod
    @abc.abstractmethod
    def of(cls, module: Any, params: Tree) -> "Layout":
        """The layout of a module with these parameters."""

    @abc.abstractmethod
    def inputs(self, x: jax.Array) -> jax.Array:
        """The vectors a [B, S, groups, rows] of inputs x [B, ...], in at least float32."""

    def outputs(self, g: jax.Array) -> jax.Array:
        """The vectors b [B, S, groups, columns] of output adjoints g [B, ..., features]."""
        return wide(g).reshape(g.shape[0], -1, self.groups, self.columns)

    def matrix(self, tree: Tree) -> jax.Array:
        """A tree of the parameters' shapes as [groups, rows, columns], in at least float32."""
        kernel = wide(tree["kernel"]).reshape(-1, self.groups, self.columns).transpose(1, 0, 2)
        if "bias" not in tree:
            return kernel
        bias = wide(tree["bias"]).reshape(self.groups, 1, self.columns)
        return jnp.concatenate([kernel, bias], axis=1)

    def tree(self, matrix: jax.Array, like: Tree) -> Tree:
        """The inverse of `matrix`, in the shapes and dtypes of `like`."""
        rows = self.rows - ("bias" in like)
        kernel = matrix[:, :rows].transpose(1, 0, 2).reshape(like["kernel"].shape)
        found = {"kernel": kernel.astype(like["kernel"].dtype)}
        if "bias" in like:
            bias = matrix[:, rows].reshape(like["bias"].shape)
            found["bias"] = bias.astype(like["bias"].dtype)
        return found

    def positions(self, x: Any, g: Any) -> int:
        """S, from inputs and output adjoints."""
        del x
        return math.prod(g.shape[1:]) // (self.groups * self.columns)

    def _with_bias(self, a: jax.Array) -> jax.Array:
        if not self.module.use_bias:
            return a
        return jnp.concatenate([a, jnp.ones((*a.shape[:-1], 1), a.dtype)], axis=-1)


class Dense(Layout):
    """`h = x W + b`: a is x."""

    @classmethod
    def of(cls, module: Any, params: Tree) -> Layout:
        """See `Layout`."""
        columns = module.features
        rows = params["kernel"].size // columns
        return cls(module, 1, rows + module.use_bias, columns)

    def inputs(self, x: jax.Array) -> jax.Array:
        """See `Layout`."""
        return self._with_bias(wide(x).reshape(x.shape[0], -1, 1, x.shape[-1]))


class Conv(Layout):
    """A convolution is a dense layer on patches (KFC, Grosse and Martens 2016)."""

    @classmethod
    def of(cls, module: Any, params: Tree) -> Layout:
        """See `Layout`."""
        *size, inputs, features = params["kernel"].shape
        groups = module.feature_group_count
        rows = math.prod(size) * inputs + module.use_bias
        return cls(module, groups, rows, features // groups)

    def inputs(self, x: jax.Array) -> jax.Array:
        """See `Layout`."""
        patches = conv.patches(self.module, wide(x))
        batch, offsets = patches.shape[0], patches.shape[-2]
        split = patches.reshape(batch, -1, offsets, self.groups, patches.shape[-1] // self.groups)
        return self._with_bias(
            split.transpose(0, 1, 3, 2, 4).reshape(*split.shape[:2], self.groups, -1)
        )


LAYOUTS: dict[str, type[Layout]] = {"dense": Dense, "conv": Conv}
"""Matrix forms by the kind of player, see `gtddp_jax.players.rules.KINDS`."""


def _dimensions(act: Act, params: Tree) -> int:
    """The rank of the inputs that a player's kernel expects; any rank will do for a dense one."""
    return params["kernel"].ndim if "kernel" in params else 0


def layout(act: Act, params: Tree) -> Layout | None:
    """The matrix form of a player, or None if its parameters have none.

    Args:
        act: the player's move.
        params: its own parameters.
    """
    shape = (1,) * _dimensions(act, params)
    name = kind(act.module, shape)
    return LAYOUTS[name].of(act.module, params) if name in LAYOUTS else None
