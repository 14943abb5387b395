"""`theorem3` and `rescale` through joint factors (paper Eq. 16-18, 51-54).

    k_u = -sum_v (A_ww^-1)_uv Q_v (B_ww^-1)_vu

A_ww and B_ww get factored damping and are inverted through Cholesky factors; the Schur complements
A~_uu are never formed. These formulas imply `Q_uv = -A_uv (x) B_uv` (Eq. 54), while the
Gauss-Newton matrix, which `joint` inverts, has a plus there.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.types import Number
from gtddp_jax.curvature.base import StageInputs
from gtddp_jax.curvature.kronecker.cooperation import joint_factors
from gtddp_jax.curvature.kronecker.cooperation.base import Cooperation
from gtddp_jax.curvature.kronecker.cooperation.correction import apply_correction
from gtddp_jax.curvature.kronecker.cooperation.joint_factors import JointFactors
from gtddp_jax.curvature.kronecker.eigenvalue_rule import PlayerCurvature
from gtddp_jax.curvature.kronecker.factor_statistics import FactorOptions
from gtddp_jax.curvature.kronecker.operators import CurvatureOperator, PlayerMatrices


class Theorem3State(NamedTuple):
    """The state of `Theorem3`.

    Attributes:
        joint_factors: the running joint factors.
        input_inverse: A_ww^-1, damped, [all rows, all rows].
        output_inverse: B_ww^-1, damped, [all columns, all columns].
        gamma: the damping in these inverses.
    """

    joint_factors: JointFactors
    input_inverse: jax.Array
    output_inverse: jax.Array
    gamma: jax.Array


@dataclasses.dataclass(frozen=True)
class JointInverse(CurvatureOperator):
    """`m_u -> sum_v (A_ww^-1)_uv m_v (B_ww^-1)_vu`, or the term v = u alone.

    Attributes:
        input_inverse: A_ww^-1.
        output_inverse: B_ww^-1.
        rows: each player's rows in A_ww.
        columns: each player's rows in B_ww.
        own_blocks_only: whether to leave out the terms with v != u.
    """

    input_inverse: jax.Array
    output_inverse: jax.Array
    rows: Mapping[str, slice]
    columns: Mapping[str, slice]
    own_blocks_only: bool

    @override
    def __call__(self, matrices: PlayerMatrices) -> dict[str, jax.Array]:
        def term(u: str, v: str) -> jax.Array:
            # Slicing the joint inverses gives all blocks at once.
            a = self.input_inverse[self.rows[u], self.rows[v]]
            b = self.output_inverse[self.columns[v], self.columns[u]]
            # Index 0: joint factors have a single group.
            return a @ matrices[v][0] @ b

        def sum_of_terms(u: str) -> jax.Array:
            others = [u] if self.own_blocks_only else list(matrices)
            return jnp.stack([term(u, v) for v in others]).sum(0)[None]

        return {u: sum_of_terms(u) for u in matrices}


@dataclasses.dataclass(frozen=True)
class Theorem3(Cooperation[Theorem3State]):
    """The paper's cooperative matrices.

    Attributes:
        layouts: the players' matrix forms.
        own_blocks_only: whether a player ignores the others' gradients (`rescale`).
        correct: whether each player keeps its own block, see `correction`.
    """

    own_blocks_only: bool
    correct: bool

    @override
    def init_state(self, dtype: jnp.dtype) -> Theorem3State:
        factors = joint_factors.init_joint_factors(self.layouts, dtype)
        # Placeholders: the first step always refreshes.
        return Theorem3State(
            factors,
            jnp.eye(factors.inputs.weighted_sum.shape[-1], dtype=dtype),
            jnp.eye(factors.outputs.weighted_sum.shape[-1], dtype=dtype),
            jnp.ones((), dtype),
        )

    @override
    def update_statistics(
        self, state: Theorem3State, inputs: StageInputs, options: FactorOptions
    ) -> Theorem3State:
        factors = joint_factors.update_joint_factors(
            state.joint_factors, self.layouts, inputs, options
        )
        return state._replace(joint_factors=factors)

    @override
    def refresh_state(self, state: Theorem3State, gamma: Number) -> Theorem3State:
        damped = joint_factors.damp_joint_factors(state.joint_factors, self.layouts, gamma)
        return Theorem3State(
            state.joint_factors,
            _invert(damped.inputs),
            _invert(damped.outputs),
            jnp.asarray(gamma, state.gamma.dtype),
        )

    @override
    def make_operator(
        self, state: Theorem3State, players: Mapping[str, PlayerCurvature], gamma: Number
    ) -> CurvatureOperator:
        # The inverses contain the damping of their refresh, which the correction must use too.
        del gamma
        inverse = JointInverse(
            state.input_inverse,
            state.output_inverse,
            joint_factors.row_slices(self.layouts),
            joint_factors.column_slices(self.layouts),
            self.own_blocks_only,
        )
        return apply_correction(inverse, players, state.gamma) if self.correct else inverse


def _invert(matrix: jax.Array) -> jax.Array:
    # Damped factors are positive definite; Cholesky keeps the inverse symmetric.
    factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
    return jax.scipy.linalg.cho_solve(factor, jnp.eye(matrix.shape[0], dtype=matrix.dtype))
