"""P of a stage on the parameters of its Kronecker players, from the stage's statistics.

`P^-1 = Q_uu + damping`, without the learning rate. What the players of one stage do to each other's
gradients is up to the cooperation.
"""

import dataclasses
from typing import Any

import jax

from gtddp_jax.core.types import Number, PerSample, PlayerTrees
from gtddp_jax.curvature.kronecker.cooperation.base import Cooperation
from gtddp_jax.curvature.kronecker.eigenvalue_rule import EigenvalueRule
from gtddp_jax.curvature.kronecker.factors import FactorState
from gtddp_jax.curvature.kronecker.operators import (
    CurvatureOperator,
    PlayerLayouts,
    PlayerMatrices,
    PlayerTapes,
)


@dataclasses.dataclass(frozen=True)
class Preconditioner:
    """P of the Kronecker players of one stage in one step.

    Attributes:
        operator: P on matrices.
        layouts: the players' matrix forms.
    """

    operator: CurvatureOperator
    layouts: PlayerLayouts

    @classmethod
    def from_factors(
        cls, rule: EigenvalueRule, cooperation: Cooperation[Any], state: FactorState, gamma: Number
    ) -> "Preconditioner":
        """P with damping gamma."""
        # Damping follows its schedule in each step, also between refreshes.
        players = {
            name: rule.player_curvature(player, gamma) for name, player in state.players.items()
        }
        operator = cooperation.make_operator(state.joint, players, gamma)
        return cls(operator, cooperation.layouts)

    def multiply_trees(self, trees: PlayerTrees) -> dict[str, jax.Array]:
        """`P q` as matrices; of `trees` only the Kronecker players are looked at."""
        return self.operator(
            {name: layout.to_matrix(trees[name]) for name, layout in self.layouts.items()}
        )

    def to_trees(self, matrices: PlayerMatrices, like: PlayerTrees) -> PlayerTrees:
        """Matrices as parameter trees, in the shapes and dtypes of `like`."""
        # Rounded once, after all products.
        return {
            name: layout.to_tree(matrices[name], like[name])
            for name, layout in self.layouts.items()
        }

    def quadratic_forms(self, tapes: PlayerTapes) -> PerSample:
        """`G_i^T P G_i` of each sample over the Kronecker players, [B]."""
        return self.operator.quadratic_forms(self.layouts, tapes)
