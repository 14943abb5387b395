"""Players in matrix form: parameters as `[groups, rows, columns]`, samples as vectors.

| symbol | meaning                                               | shape                      |
|--------|-------------------------------------------------------|----------------------------|
| a      | what the parameters multiply, with a 1 for the bias   | [B, S, groups, rows]       |
| b      | adjoint g_h of the player's output                    | [B, S, groups, columns]    |
| G_i    | per-sample gradient, `sum_s a_is b_is^T`              | [groups, rows, columns]    |

S is the number of positions: 1 for a dense layer on [B, d], pixels for a convolution, tokens for a
dense layer on [B, T, d]. A new kind of layer is one subclass and one entry in `MATRIX_LAYOUTS`.
"""

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import Tree
from gtddp_jax.network.program import PlayerOp
from gtddp_jax.network.sample_gradients import conv
from gtddp_jax.network.sample_gradients.layer_rules import layer_kind


@dataclasses.dataclass(frozen=True)
class MatrixLayout(abc.ABC):
    """The matrix form of one player.

    Attributes:
        module: its Flax module or layer description.
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
    def from_module(cls, module: Any, params: Tree) -> "MatrixLayout":
        """The layout of a module with these parameters."""

    @abc.abstractmethod
    def input_vectors(self, inputs: jax.Array) -> jax.Array:
        """The vectors a [B, S, groups, rows] of inputs [B, ...], in at least float32."""

    def adjoint_vectors(self, adjoints: jax.Array) -> jax.Array:
        """The vectors b [B, S, groups, columns] of output adjoints [B, ..., features]."""
        return upcast(adjoints).reshape(adjoints.shape[0], -1, self.groups, self.columns)

    def to_matrix(self, tree: Tree) -> jax.Array:
        """A tree of the parameters' shapes as [groups, rows, columns], in at least float32."""
        layer: Any = tree
        # The columns of one group are contiguous in the last axis of a kernel.
        kernel = upcast(layer["kernel"]).reshape(-1, self.groups, self.columns).transpose(1, 0, 2)
        if "bias" not in layer:
            return kernel
        bias = upcast(layer["bias"]).reshape(self.groups, 1, self.columns)
        return jnp.concatenate([kernel, bias], axis=1)

    def to_tree(self, matrix: jax.Array, like: Tree) -> dict[str, jax.Array]:
        """The inverse of `to_matrix`, in the shapes and dtypes of `like`."""
        layer: Any = like
        # The bias is the last row.
        kernel_rows = self.rows - ("bias" in layer)
        kernel = matrix[:, :kernel_rows].transpose(1, 0, 2).reshape(layer["kernel"].shape)
        tree = {"kernel": kernel.astype(layer["kernel"].dtype)}
        if "bias" in layer:
            bias = matrix[:, kernel_rows].reshape(layer["bias"].shape)
            tree["bias"] = bias.astype(layer["bias"].dtype)
        return tree

    def count_positions(self, adjoints: jax.Array) -> int:
        """S, from output adjoints [B, ..., features]."""
        return math.prod(adjoints.shape[1:]) // (self.groups * self.columns)

    def _with_bias(self, vectors: jax.Array) -> jax.Array:
        """Appends the 1 that the bias multiplies."""
        if not self.module.use_bias:
            return vectors
        ones = jnp.ones((*vectors.shape[:-1], 1), vectors.dtype)
        return jnp.concatenate([vectors, ones], axis=-1)


class DenseLayout(MatrixLayout):
    """`h = x W + b`: a is x."""

    @classmethod
    @override
    def from_module(cls, module: Any, params: Tree) -> MatrixLayout:
        layer: Any = params
        columns = module.features
        # Also for a kernel with several input axes.
        rows = layer["kernel"].size // columns
        return cls(module, 1, rows + module.use_bias, columns)

    @override
    def input_vectors(self, inputs: jax.Array) -> jax.Array:
        return self._with_bias(upcast(inputs).reshape(inputs.shape[0], -1, 1, inputs.shape[-1]))


class ConvLayout(MatrixLayout):
    """A convolution is a dense layer on patches (KFC, Grosse and Martens 2016)."""

    @classmethod
    @override
    def from_module(cls, module: Any, params: Tree) -> MatrixLayout:
        layer: Any = params
        *kernel_size, channels, features = layer["kernel"].shape
        groups = module.feature_group_count
        rows = math.prod(kernel_size) * channels + module.use_bias
        return cls(module, groups, rows, features // groups)

    @override
    def input_vectors(self, inputs: jax.Array) -> jax.Array:
        # Padding, strides and dilation are in the patches.
        patches = conv.extract_patches(self.module, upcast(inputs))
        batch, offsets = patches.shape[0], patches.shape[-2]
        channels = patches.shape[-1] // self.groups
        split = patches.reshape(batch, -1, offsets, self.groups, channels)
        # Offsets before channels, as in the flattened kernel.
        by_group = split.transpose(0, 1, 3, 2, 4)
        return self._with_bias(by_group.reshape(*split.shape[:2], self.groups, -1))


MATRIX_LAYOUTS: dict[str, type[MatrixLayout]] = {"dense": DenseLayout, "conv": ConvLayout}
"""Matrix forms by kind of layer; kinds are those of `sample_gradients.layer_rules.LAYER_RULES`."""


def matrix_layout(player_op: PlayerOp, params: Tree) -> MatrixLayout | None:
    """The matrix form of a player, or None if its parameters have none."""
    layer: Any = params
    # A convolution is recognised by the rank of its inputs, which is that of its kernel.
    input_rank = layer["kernel"].ndim if "kernel" in layer else 0
    kind = layer_kind(player_op.module, (1,) * input_rank)
    if kind not in MATRIX_LAYOUTS:
        return None
    return MATRIX_LAYOUTS[kind].from_module(player_op.module, params)
