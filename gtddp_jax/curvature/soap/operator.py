"""SOAP's P on parameters: diagonal in the bases of each array.

P = Q diag(s) Q^T,    Q = Q_L (x) Q_R
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import PerSample, PlayerTrees, Tree
from gtddp_jax.curvature.kronecker.matrix_layouts import DenseLayout, matrix_layout
from gtddp_jax.curvature.kronecker.operators import MAX_GRADIENT_NUMBERS
from gtddp_jax.curvature.soap import axis_bases
from gtddp_jax.curvature.soap.axis_bases import AxisBases
from gtddp_jax.network.program import PlayerOp
from gtddp_jax.network.protocol import PlayerTape
from gtddp_jax.network.sample_gradients import map_samples


class LeafOperator(NamedTuple):
    """P of one array.

    Attributes:
        scale: s, of the array's shape.
        axes: the axes with a basis.
        bases: their bases.
    """

    scale: jax.Array
    axes: tuple[int, ...]
    bases: AxisBases

    def multiply(self, array: jax.Array) -> jax.Array:
        """`P` times an array."""
        rotated = axis_bases.to_axis_bases(upcast(array), self.axes, self.bases)
        return axis_bases.from_axis_bases(self.scale * rotated, self.axes, self.bases)

    def energy(self, array: jax.Array) -> jax.Array:
        """The inner product of an array with `P` times it."""
        rotated = axis_bases.to_axis_bases(upcast(array), self.axes, self.bases)
        return (self.scale * jnp.square(rotated)).sum()


LeafOperators = dict[str, list[LeafOperator]]
"""The operators of each player's arrays, in the order of `jax.tree.leaves`."""


@dataclasses.dataclass(frozen=True)
class AxisBasisOperator:
    """P of the players of one stage, the learning rate included.

    Attributes:
        players: the operators of each player's arrays.
        player_ops: the operations of the players.
    """

    players: LeafOperators
    player_ops: tuple[PlayerOp, ...]

    def multiply_trees(self, trees: PlayerTrees) -> PlayerTrees:
        """`P q` for `{player: tree}`, in at least float32."""
        images: dict[str, Tree] = {}
        for name, operators in self.players.items():
            leaves, treedef = jax.tree.flatten(trees[name])
            pairs = zip(operators, leaves, strict=True)
            images[name] = treedef.unflatten([operator.multiply(leaf) for operator, leaf in pairs])
        return images

    def quadratic_form(self, tapes: Mapping[str, PlayerTape], params: PlayerTrees) -> PerSample:
        """`G_i^T P G_i` of each sample over the players, [B]."""
        return jnp.stack(
            [
                self._player_form(player_op, tapes[player_op.name], params[player_op.name])
                for player_op in self.player_ops
            ]
        ).sum(0)

    def _player_form(self, player_op: PlayerOp, tape: PlayerTape, params: Tree) -> PerSample:
        operators = self.players[player_op.name]
        layout = matrix_layout(player_op, params)
        if isinstance(layout, DenseLayout) and layout.count_positions(tape.output_adjoints) == 1:
            kernel = _leaf_number(params, "kernel")
            # Kernels with several input axes have a basis for each of them.
            if operators[kernel].scale.ndim == 2:
                bias = _leaf_number(params, "bias") if layout.module.use_bias else None
                return _dense_form(
                    operators[kernel], None if bias is None else operators[bias], tape
                )

        def sample_form(gradients: dict[str, Tree]) -> jax.Array:
            leaves = jax.tree.leaves(gradients[player_op.name])
            pairs = zip(operators, leaves, strict=True)
            return jnp.stack([operator.energy(leaf) for operator, leaf in pairs]).sum()

        numbers = sum(operator.scale.size for operator in operators)
        # Gradients of a chunk are formed, used and dropped.
        chunk = max(1, MAX_GRADIENT_NUMBERS // numbers)
        samples = {player_op.name: tape.sample_gradients}
        return jnp.asarray(map_samples(sample_form, samples, chunk))


def _leaf_number(params: Tree, name: str) -> int:
    """The number of a layer's parameter among the leaves of its tree."""
    # A tree of Flax is a mapping, whose leaves are in the order of the keys.
    layer: Any = params
    return sorted(layer).index(name)


def _dense_form(kernel: LeafOperator, bias: LeafOperator | None, tape: PlayerTape) -> PerSample:
    """The form of `G_i = x g^T` and of its bias g, from the coordinates of x and g alone."""
    batch = tape.inputs.shape[0]
    x, g = upcast(tape.inputs).reshape(batch, -1), upcast(tape.output_adjoints).reshape(batch, -1)
    bases = dict(zip(kernel.axes, kernel.bases, strict=True))
    rotated_x = x @ bases[0] if 0 in bases else x
    rotated_g = g @ bases[1] if 1 in bases else g
    form = ((jnp.square(rotated_x) @ kernel.scale) * jnp.square(rotated_g)).sum(1)
    return form if bias is None else form + jnp.square(g) @ bias.scale
