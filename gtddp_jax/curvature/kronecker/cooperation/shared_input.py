"""Players with one input whose outputs are added (paper Fig. 7a, Cor. 7).

Their factors are equal, so all matrices of the stage have the same eigenbasis, and damping can be
added exactly. Along one coordinate, with curvature lambda and damping gamma, n players have

| mode       | on the players' mean            | on their differences           | Q_uv     |
|------------|---------------------------------|--------------------------------|----------|
| `joint`    | `1 / (gamma + n lambda)`        | `1 / gamma`                    | + lambda |
| `theorem3` | `1 / gamma`                     | `1 / (gamma + 2 lambda)`       | - lambda |

and under `rescale` each player alone has `1 / (gamma + gamma lambda / (gamma + lambda))` (Eq. 58).

Such players have the same gradient as long as they have the same statistics, so the mean is what
counts. Under `theorem3` all curvature cancels there, and the step is gradient descent with rate
eta / gamma. This follows from the paper's formula (docs/kronecker.md, "The sign of Theorem 3").
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.types import Number
from gtddp_jax.curvature.kronecker.cooperation.base import StatelessCooperation
from gtddp_jax.curvature.kronecker.eigenbases import EigenTable, rescale_in_eigenbasis
from gtddp_jax.curvature.kronecker.eigenvalue_rule import PlayerCurvature
from gtddp_jax.curvature.kronecker.operators import (
    BlockDiagonal,
    CurvatureOperator,
    KroneckerOperator,
    PlayerMatrices,
)


@dataclasses.dataclass(frozen=True)
class SharedEigenbasis(CurvatureOperator):
    """One table for the mean over the players and one for their differences from it.

    Attributes:
        player: any of the players, for the eigenbases that all share.
        mean_table: P on the mean.
        difference_table: P on the differences.
    """

    player: PlayerCurvature
    mean_table: EigenTable
    difference_table: EigenTable

    @override
    def __call__(self, matrices: PlayerMatrices) -> dict[str, jax.Array]:
        bases = self.player.row_basis, self.player.column_basis
        # P treats the mean and the differences separately, each by its own eigenvalues.
        mean = jnp.stack(list(matrices.values())).mean(0)
        mean_image = rescale_in_eigenbasis(mean, *bases, self.mean_table)
        return {
            name: mean_image + rescale_in_eigenbasis(matrix - mean, *bases, self.difference_table)
            for name, matrix in matrices.items()
        }


@dataclasses.dataclass(frozen=True)
class SharedInput(StatelessCooperation):
    """Players with equal factors.

    Attributes:
        layouts: the players' matrix forms.
        mode: a cooperative mode other than "none".
    """

    mode: str

    @override
    def make_operator(
        self, state: tuple[()], players: Mapping[str, PlayerCurvature], gamma: Number
    ) -> CurvatureOperator:
        del state
        # All players have the same bases, up to signs and rounding.
        first = next(iter(players.values()))
        tables = [player.curvature for player in players.values()]
        # The tables are equal up to EKFAC's moments of different gradients.
        curvature: EigenTable = jax.tree.map(lambda *values: jnp.stack(values).mean(0), *tables)
        if self.mode == "rescale":
            scale = jax.tree.map(
                lambda value: 1 / (gamma + gamma * value / (gamma + value)), curvature
            )
            return BlockDiagonal(
                tuple(
                    KroneckerOperator(name, first.row_basis, first.column_basis, scale)
                    for name in self.layouts
                )
            )
        # n equal players act on the mean like one with n times the curvature.
        count = len(players)
        shared: EigenTable = jax.tree.map(lambda value: 1 / (gamma + count * value), curvature)
        free: EigenTable = jax.tree.map(lambda value: jnp.ones_like(value) / gamma, curvature)
        # The sign of Q_uv decides which of the two has the curvature.
        if self.mode == "joint":
            return SharedEigenbasis(first, mean_table=shared, difference_table=free)
        return SharedEigenbasis(first, mean_table=free, difference_table=shared)
