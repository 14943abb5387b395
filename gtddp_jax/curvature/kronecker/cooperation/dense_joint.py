"""`joint` for three players or more: the Gauss-Newton block as one matrix.

    Q_ww = [[A'_uu (x) B'_uu, A_uv (x) B_uv, ...], ...]

A' and B' are the damped joint factors. Two players have coordinates in which the block falls apart
(`two_player_joint`); three have none in general, because their blocks cannot all be diagonal at
once. So the block is inverted as a whole, which bounds the number of parameters of a stage. Its
coordinates are whitened first, `L_u^-1 ... R_u^-T` with `A'_uu = L_u L_u^T` and
`B'_uu = R_u R_u^T`: the diagonal blocks are then identities, and what Cholesky's method loses to
rounding does not depend on the scales of the players.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from typing_extensions import override

from gtddp_jax.core.types import Number
from gtddp_jax.curvature.base import StageInputs
from gtddp_jax.curvature.kronecker.cooperation import joint_factors
from gtddp_jax.curvature.kronecker.cooperation.base import Cooperation
from gtddp_jax.curvature.kronecker.cooperation.correction import apply_correction
from gtddp_jax.curvature.kronecker.cooperation.joint_factors import JointFactors
from gtddp_jax.curvature.kronecker.eigenvalue_rule import PlayerCurvature
from gtddp_jax.curvature.kronecker.factor_statistics import FactorOptions
from gtddp_jax.curvature.kronecker.operators import CurvatureOperator, PlayerLayouts, PlayerMatrices

MAX_JOINT_PARAMETERS = 4096
"""The number of parameters of a stage up to which its block is inverted; 64 MiB in float32."""


class DenseJointState(NamedTuple):
    """The state of `DenseJoint`.

    Attributes:
        joint_factors: the running joint factors.
        input_whitening: L_u^-1 of each player, [rows, rows].
        output_whitening: R_u^-1 of each player, [columns, columns].
        inverse: of the whitened block, [m, m], m the number of parameters of all players.
        gamma: the damping in it.
    """

    joint_factors: JointFactors
    input_whitening: dict[str, jax.Array]
    output_whitening: dict[str, jax.Array]
    inverse: jax.Array
    gamma: jax.Array


def joint_parameters(layouts: PlayerLayouts) -> int:
    """The number of parameters of all players."""
    return sum(layout.rows * layout.columns for layout in layouts.values())


@dataclasses.dataclass(frozen=True)
class DenseInverse(CurvatureOperator):
    """The inverse of the block, in whitened coordinates.

    Attributes:
        layouts: the players' matrix forms.
        input_whitening: as in `DenseJointState`.
        output_whitening: likewise.
        inverse: likewise; one player stands after the other, row by row.
    """

    layouts: PlayerLayouts
    input_whitening: Mapping[str, jax.Array]
    output_whitening: Mapping[str, jax.Array]
    inverse: jax.Array

    @override
    def __call__(self, matrices: PlayerMatrices) -> dict[str, jax.Array]:
        a, b = self.input_whitening, self.output_whitening
        # Index 0: joint factors have a single group.
        white = [(a[name] @ matrices[name][0] @ b[name].T).ravel() for name in self.layouts]
        image = self.inverse @ jnp.concatenate(white)
        sizes = [layout.rows * layout.columns for layout in self.layouts.values()]
        slices = joint_factors.consecutive_slices(sizes)
        images = {}
        for (name, layout), part in zip(self.layouts.items(), slices, strict=True):
            matrix = image[part].reshape(layout.rows, layout.columns)
            images[name] = (a[name].T @ matrix @ b[name])[None]
        return images


@dataclasses.dataclass(frozen=True)
class DenseJoint(Cooperation[DenseJointState]):
    """Any number of players solved as one.

    Attributes:
        layouts: the players' matrix forms.
        correct: whether each player keeps its own block, see `correction`.
    """

    correct: bool

    @override
    def init_state(self, dtype: jnp.dtype) -> DenseJointState:
        # Placeholders: the first step always refreshes.
        return DenseJointState(
            joint_factors.init_joint_factors(self.layouts, dtype),
            {name: jnp.eye(layout.rows, dtype=dtype) for name, layout in self.layouts.items()},
            {name: jnp.eye(layout.columns, dtype=dtype) for name, layout in self.layouts.items()},
            jnp.eye(joint_parameters(self.layouts), dtype=dtype),
            jnp.ones((), dtype),
        )

    @override
    def update_statistics(
        self, state: DenseJointState, inputs: StageInputs, options: FactorOptions
    ) -> DenseJointState:
        factors = joint_factors.update_joint_factors(
            state.joint_factors, self.layouts, inputs, options
        )
        return state._replace(joint_factors=factors)

    @override
    def refresh_state(self, state: DenseJointState, gamma: Number) -> DenseJointState:
        damped = joint_factors.damp_joint_factors(state.joint_factors, self.layouts, gamma)
        rows = joint_factors.row_slices(self.layouts)
        columns = joint_factors.column_slices(self.layouts)
        a, b = _whitening(damped.inputs, rows), _whitening(damped.outputs, columns)

        def block(u: str, v: str) -> jax.Array:
            a_uv = a[u] @ damped.inputs[rows[u], rows[v]] @ a[v].T
            b_uv = b[u] @ damped.outputs[columns[u], columns[v]] @ b[v].T
            return jnp.kron(a_uv, b_uv)

        whole = jnp.block([[block(u, v) for v in self.layouts] for u in self.layouts])
        identity = jnp.eye(len(whole), dtype=whole.dtype)
        # Rounding may make the block of highly correlated players indefinite.
        bound = jnp.finfo(whole.dtype).eps * len(whole)
        factor = jax.scipy.linalg.cho_factor(whole + bound * identity, lower=True)
        inverse = jax.scipy.linalg.cho_solve(factor, identity)
        return DenseJointState(
            state.joint_factors, a, b, inverse, jnp.asarray(gamma, state.gamma.dtype)
        )

    @override
    def make_operator(
        self, state: DenseJointState, players: Mapping[str, PlayerCurvature], gamma: Number
    ) -> CurvatureOperator:
        # The inverse contains the damping of its refresh, which the correction must use too.
        del gamma
        inverse = DenseInverse(
            self.layouts, state.input_whitening, state.output_whitening, state.inverse
        )
        return apply_correction(inverse, players, state.gamma) if self.correct else inverse


def _whitening(damped: jax.Array, slices: Mapping[str, slice]) -> dict[str, jax.Array]:
    """The inverse Cholesky factor of each player's own block."""

    def inverse_root(block: jax.Array) -> jax.Array:
        identity = jnp.eye(len(block), dtype=block.dtype)
        return solve_triangular(jnp.linalg.cholesky(block), identity, lower=True)

    return {name: inverse_root(damped[span, span]) for name, span in slices.items()}
