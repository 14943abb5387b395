"""P of a stage as an operator on matrices `{player: [groups, rows, columns]}`.

An operator can multiply, and gives the quadratic forms `G_i^T P G_i` of all samples, which the
feedback of the game needs.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.types import PerSample, Tree
from gtddp_jax.curvature.kronecker.eigenbases import (
    Eigenbasis,
    EigenTable,
    rescale_in_eigenbasis,
    vector_energies,
    weighted_energy,
)
from gtddp_jax.curvature.kronecker.matrix_layouts import MatrixLayout
from gtddp_jax.network.protocol import PlayerTape
from gtddp_jax.network.sample_gradients import map_samples

PlayerMatrices: TypeAlias = Mapping[str, jax.Array]
PlayerLayouts: TypeAlias = Mapping[str, MatrixLayout]
PlayerTapes: TypeAlias = Mapping[str, PlayerTape]
MAX_GRADIENT_NUMBERS = 2**20
"""How many numbers of per-sample gradients are in memory at once."""


def gradient_chunk_size(layouts: Iterable[MatrixLayout]) -> int:
    """How many samples have their gradients by these players in memory at once."""
    numbers_per_sample = sum(layout.groups * layout.rows * layout.columns for layout in layouts)
    return max(1, MAX_GRADIENT_NUMBERS // numbers_per_sample)


def map_gradient_matrices(
    function: Callable[[dict[str, jax.Array]], jax.Array],
    layouts: PlayerLayouts,
    tapes: PlayerTapes,
) -> PerSample:
    """`function` of `{player: G_i as a matrix}` for each sample, a chunk of samples at a time."""

    def on_matrices(gradients: dict[str, Tree]) -> jax.Array:
        return function(
            {name: layouts[name].to_matrix(gradient) for name, gradient in gradients.items()}
        )

    # Gradients of a chunk are formed, used and dropped.
    samples = {name: tapes[name].sample_gradients for name in layouts}
    return jnp.asarray(map_samples(on_matrices, samples, gradient_chunk_size(layouts.values())))


class CurvatureOperator(abc.ABC):
    """A symmetric positive definite operator on the parameters of some players of a stage."""

    @abc.abstractmethod
    def __call__(self, matrices: PlayerMatrices) -> dict[str, jax.Array]:
        """`P m` for a matrix m per player."""

    def quadratic_forms(self, layouts: PlayerLayouts, tapes: PlayerTapes) -> PerSample:
        """`G_i^T P G_i` of each sample, [B], by definition."""

        def sample_form(gradient: dict[str, jax.Array]) -> jax.Array:
            image = self(gradient)
            # Over all players, whose blocks P may couple.
            return jnp.stack([(gradient[name] * image[name]).sum() for name in gradient]).sum()

        return map_gradient_matrices(sample_form, layouts, tapes)


@dataclasses.dataclass(frozen=True)
class KroneckerOperator(CurvatureOperator):
    """One player alone: a table over the coordinates of its two eigenbases.

    Attributes:
        player: its name.
        row_basis: eigenbasis of the rows.
        column_basis: eigenbasis of the columns.
        scale: the table.
    """

    player: str
    row_basis: Eigenbasis
    column_basis: Eigenbasis
    scale: EigenTable

    @override
    def __call__(self, matrices: PlayerMatrices) -> dict[str, jax.Array]:
        matrix = matrices[self.player]
        return {
            self.player: rescale_in_eigenbasis(
                matrix, self.row_basis, self.column_basis, self.scale
            )
        }

    @override
    def quadratic_forms(self, layouts: PlayerLayouts, tapes: PlayerTapes) -> PerSample:
        layout, tape = layouts[self.player], tapes[self.player]
        if layout.count_positions(tape.output_adjoints) > 1:

            def sample_form(gradient: dict[str, jax.Array]) -> jax.Array:
                matrix = gradient[self.player]
                return weighted_energy(matrix, self.row_basis, self.column_basis, self.scale)

            return map_gradient_matrices(sample_form, {self.player: layout}, tapes)
        # With one position per sample G_i = a b^T, and the form needs only the energies of a and b.
        a = vector_energies(layout.input_vectors(tape.inputs)[:, 0], self.row_basis)
        b = vector_energies(layout.adjoint_vectors(tape.output_adjoints)[:, 0], self.column_basis)
        outside = jnp.expand_dims(self.scale.outside, (1, 2))
        # As in `rescale_in_eigenbasis`: everything times `outside`, and what is missing.
        difference = self.scale.inside - outside
        inside = (jnp.einsum("ngp,gpq->ngq", a.inside, difference) * b.inside).sum((1, 2))
        return inside + (a.total * b.total) @ self.scale.outside


@dataclasses.dataclass(frozen=True)
class BlockDiagonal(CurvatureOperator):
    """One operator per player.

    Attributes:
        blocks: the operators, in the order of the stage.
    """

    blocks: tuple[KroneckerOperator, ...]

    @override
    def __call__(self, matrices: PlayerMatrices) -> dict[str, jax.Array]:
        images: dict[str, jax.Array] = {}
        for block in self.blocks:
            images |= block(matrices)
        return images

    @override
    def quadratic_forms(self, layouts: PlayerLayouts, tapes: PlayerTapes) -> PerSample:
        return jnp.stack([block.quadratic_forms(layouts, tapes) for block in self.blocks]).sum(0)
