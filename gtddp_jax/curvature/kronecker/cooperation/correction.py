"""Keeps each player's own block of P where joint factors alone would change it.

Joint factors need factored damping, with which a player's own block of Q_uu is `A' (x) B'`. Exact
damping and EKFAC's second moments are not of this form. In the player's own eigenbasis
`C = sqrt(P_own (A' (x) B'))` is diagonal, and `C P C` keeps the correlations between players while
a player that is uncorrelated with all others has exactly its own P.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.types import Number
from gtddp_jax.curvature.kronecker import damping
from gtddp_jax.curvature.kronecker.eigenbases import EigenTable, rescale_in_eigenbasis
from gtddp_jax.curvature.kronecker.eigenvalue_rule import PlayerCurvature
from gtddp_jax.curvature.kronecker.operators import CurvatureOperator, PlayerMatrices


@dataclasses.dataclass(frozen=True)
class CorrectedOperator(CurvatureOperator):
    """`C P C`.

    Attributes:
        joint_operator: P.
        players: each player's eigenbases.
        tables: C of each player, in its eigenbases.
    """

    joint_operator: CurvatureOperator
    players: Mapping[str, PlayerCurvature]
    tables: Mapping[str, EigenTable]

    def _multiply_by_c(self, matrices: PlayerMatrices) -> dict[str, jax.Array]:
        return {
            name: rescale_in_eigenbasis(
                matrix,
                self.players[name].row_basis,
                self.players[name].column_basis,
                self.tables[name],
            )
            for name, matrix in matrices.items()
        }

    @override
    def __call__(self, matrices: PlayerMatrices) -> dict[str, jax.Array]:
        # C on both sides keeps the operator symmetric.
        return self._multiply_by_c(self.joint_operator(self._multiply_by_c(matrices)))


def apply_correction(
    joint_operator: CurvatureOperator, players: Mapping[str, PlayerCurvature], gamma: Number
) -> CurvatureOperator:
    """`C P C` for P with factored damping gamma."""

    def correction_table(player: PlayerCurvature) -> EigenTable:
        # These are the eigenvalues of `A' (x) B'`, whose inverse is the own block of P.
        product = damping.factored_eigenvalues(player.row_basis, player.column_basis, gamma)
        # Joint factors have complete bases, so nothing is outside.
        return EigenTable(jnp.sqrt(player.scale.inside * product), player.scale.outside)

    tables = {name: correction_table(player) for name, player in players.items()}
    return CorrectedOperator(joint_operator, players, tables)
