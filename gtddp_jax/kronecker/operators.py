"""P of a stage as an operator on matrices `{player: [groups, rows, columns]}` (DESIGN §5).

An operator knows how to multiply and, for rho, the quadratic forms `G_i^T P G_i` of the samples.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.curvature.base import Move
from gtddp_jax.kronecker.bases import Basis, Table, rescaled, vector_energies, weighted_energy
from gtddp_jax.kronecker.layouts import Layout
from gtddp_jax.players import map_samples

Matrices = Mapping[str, jax.Array]
PER_SAMPLE = 2**20
"""Numbers of per-sample gradients that are turned into matrices at once."""


def chunk_of(layouts: Mapping[str, Layout]) -> int:
    """How many samples' gradients of these players are held at once."""
    count = sum(la.groups * la.rows * la.columns for la in layouts.values())
    return max(1, PER_SAMPLE // count)


def map_matrices(f: Any, layouts: Mapping[str, Layout], moves: Mapping[str, Move]) -> Any:
    """`f` of `{player: G_i as a matrix}` for every sample, a chunk of samples at a time."""

    def one(gradients: dict[str, Any]) -> Any:
        return f({name: layouts[name].matrix(tree) for name, tree in gradients.items()})

    samples = {name: moves[name].samples for name in layouts}
    return map_samples(one, samples, chunk_of(layouts))


class Operator(abc.ABC):
    """A symmetric positive definite operator on the parameters of some players of a stage."""

    @abc.abstractmethod
    def __call__(self, m: Matrices) -> dict[str, jax.Array]:
        """`P m`."""

    def forms(self, layouts: Mapping[str, Layout], moves: Mapping[str, Move]) -> jax.Array:
        """`G_i^T P G_i` of every sample, [B]: by definition, in chunks."""

        def form(m: dict[str, jax.Array]) -> jax.Array:
            image = self(m)
            return jnp.stack([(m[name] * image[name]).sum() for name in m]).sum()

        return map_matrices(form, layouts, moves)


@dataclasses.dataclass(frozen=True)
class Alone(Operator):
    """One player on its own: a table over the coordinates of its two eigenbases.

    Attributes:
        name: the player.
        left: basis of the rows.
        right: basis of the columns.
        scale: the table.
    """

    name: str
    left: Basis
    right: Basis
    scale: Table

    def __call__(self, m: Matrices) -> dict[str, jax.Array]:
        """See `Operator`."""
        return {self.name: rescaled(m[self.name], self.left, self.right, self.scale)}

    def forms(self, layouts: Mapping[str, Layout], moves: Mapping[str, Move]) -> jax.Array:
        """See `Operator`; with one position a sample G_i is never formed."""
        layout, move = layouts[self.name], moves[self.name]
        if layout.positions(move.inputs, move.adjoints) > 1:

            def form(m: dict[str, jax.Array]) -> jax.Array:
                return weighted_energy(m[self.name], self.left, self.right, self.scale)

            return map_matrices(form, {self.name: layout}, moves)
        a = vector_energies(layout.inputs(move.inputs)[:, 0], self.left)
        b = vector_energies(layout.outputs(move.adjoints)[:, 0], self.right)
        outside = jnp.expand_dims(self.scale.outside, (1, 2))
        difference = self.scale.inside - outside
        inside = (jnp.einsum("ngp,gpq->ngq", a.inside, difference) * b.inside).sum((1, 2))
        return inside + (a.total * b.total) @ self.scale.outside


@dataclasses.dataclass(frozen=True)
class Together(Operator):
    """Several operators on separate players."""

    parts: tuple[Operator, ...]
    owned: tuple[tuple[str, ...], ...]

    def __call__(self, m: Matrices) -> dict[str, jax.Array]:
        """See `Operator`."""
        found: dict[str, jax.Array] = {}
        for part, names in zip(self.parts, self.owned, strict=True):
            found |= part({name: m[name] for name in names})
        return found

    def forms(self, layouts: Mapping[str, Layout], moves: Mapping[str, Move]) -> jax.Array:
        """See `Operator`."""
        parts = [
            part.forms({name: layouts[name] for name in names}, moves)
            for part, names in zip(self.parts, self.owned, strict=True)
        ]
        return jnp.stack(parts).sum(0)
