"""`joint` for two players: the Gauss-Newton block with `Q_uv = + A_uv (x) B_uv`.

Let A' and B' be the damped joint factors, `A'_uu = L_u L_u^T` a Cholesky decomposition, and
`L_u^-1 A_uv L_v^-T = X diag(s) Y^T` a singular value decomposition, whose s are the canonical
correlations; the same for B with t. In these coordinates the whole block is a set of independent
2 x 2 matrices `[[1, s_p t_q], [s_p t_q, 1]]`.
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
from gtddp_jax.curvature.kronecker.operators import CurvatureOperator, PlayerMatrices


class CanonicalCoordinates(NamedTuple):
    """Canonical coordinates of the inputs, or of the output adjoints, of two players.

    Attributes:
        first: [width of the first player, n], with n the larger width; missing columns are zero.
        second: [width of the second player, n].
        correlations: in [0, 1), [n].
    """

    first: jax.Array
    second: jax.Array
    correlations: jax.Array


class TwoPlayerState(NamedTuple):
    """The state of `TwoPlayerJoint`.

    Attributes:
        joint_factors: the running joint factors.
        inputs: canonical coordinates of the inputs.
        outputs: canonical coordinates of the output adjoints.
        gamma: the damping in these coordinates.
    """

    joint_factors: JointFactors
    inputs: CanonicalCoordinates
    outputs: CanonicalCoordinates
    gamma: jax.Array


@dataclasses.dataclass(frozen=True)
class TwoPlayerInverse(CurvatureOperator):
    """The inverse of the block, in canonical coordinates.

    Attributes:
        names: the two players.
        inputs: canonical coordinates of their inputs.
        outputs: canonical coordinates of their output adjoints.
    """

    names: tuple[str, str]
    inputs: CanonicalCoordinates
    outputs: CanonicalCoordinates

    @override
    def __call__(self, matrices: PlayerMatrices) -> dict[str, jax.Array]:
        first, second = self.names
        a, b = self.inputs, self.outputs
        # In canonical coordinates each entry of x is coupled to one entry of y only.
        x = a.first.T @ matrices[first][0] @ b.first
        y = a.second.T @ matrices[second][0] @ b.second
        c = a.correlations[:, None] * b.correlations[None]
        # (1 - c)(1 + c) rather than 1 - c^2, which cancels where c is close to 1.
        determinant = (1 - c) * (1 + c)
        return {
            first: (a.first @ ((x - c * y) / determinant) @ b.first.T)[None],
            second: (a.second @ ((y - c * x) / determinant) @ b.second.T)[None],
        }


@dataclasses.dataclass(frozen=True)
class TwoPlayerJoint(Cooperation[TwoPlayerState]):
    """Two players solved as one.

    Attributes:
        layouts: the players' matrix forms.
        correct: whether each player keeps its own block, see `correction`.
    """

    correct: bool

    @override
    def init_state(self, dtype: jnp.dtype) -> TwoPlayerState:
        # Placeholders: the first step always refreshes.
        first, second = self.layouts.values()
        return TwoPlayerState(
            joint_factors.init_joint_factors(self.layouts, dtype),
            _uncorrelated(first.rows, second.rows, dtype),
            _uncorrelated(first.columns, second.columns, dtype),
            jnp.ones((), dtype),
        )

    @override
    def update_statistics(
        self, state: TwoPlayerState, inputs: StageInputs, options: FactorOptions
    ) -> TwoPlayerState:
        factors = joint_factors.update_joint_factors(
            state.joint_factors, self.layouts, inputs, options
        )
        return state._replace(joint_factors=factors)

    @override
    def refresh_state(self, state: TwoPlayerState, gamma: Number) -> TwoPlayerState:
        damped = joint_factors.damp_joint_factors(state.joint_factors, self.layouts, gamma)
        first, _ = self.layouts.values()
        return TwoPlayerState(
            state.joint_factors,
            _canonical_coordinates(damped.inputs, first.rows),
            _canonical_coordinates(damped.outputs, first.columns),
            jnp.asarray(gamma, state.gamma.dtype),
        )

    @override
    def make_operator(
        self, state: TwoPlayerState, players: Mapping[str, PlayerCurvature], gamma: Number
    ) -> CurvatureOperator:
        # The coordinates contain the damping of their refresh, which the correction must use too.
        del gamma
        first, second = self.layouts
        inverse = TwoPlayerInverse((first, second), state.inputs, state.outputs)
        return apply_correction(inverse, players, state.gamma) if self.correct else inverse


def _uncorrelated(first_width: int, second_width: int, dtype: jnp.dtype) -> CanonicalCoordinates:
    """The coordinates before the first refresh."""
    n = max(first_width, second_width)
    return CanonicalCoordinates(
        jnp.eye(first_width, n, dtype=dtype),
        jnp.eye(second_width, n, dtype=dtype),
        jnp.zeros(n, dtype),
    )


def _canonical_coordinates(damped: jax.Array, split: int) -> CanonicalCoordinates:
    """From a damped joint factor, whose first `split` rows are the first player's."""
    n = max(split, damped.shape[0] - split)
    lower_u = jnp.linalg.cholesky(damped[:split, :split])
    lower_v = jnp.linalg.cholesky(damped[split:, split:])
    # Triangular solves in place of L_u^-1 and L_v^-1.
    half_whitened = solve_triangular(lower_u, damped[:split, split:], lower=True)
    whitened = solve_triangular(lower_v, half_whitened.T, lower=True).T
    x, values, y = jnp.linalg.svd(whitened, full_matrices=True)
    # `u.T A'_uu u = I`, and likewise for v.
    u = solve_triangular(lower_u.T, x, lower=False)
    v = solve_triangular(lower_v.T, y.T, lower=False)
    # Rounding may push a correlation to 1, where the 2 x 2 matrices have no inverse.
    largest = 1 - jnp.finfo(values.dtype).eps
    # Padding pairs the additional directions of the wider player with zeros.
    return CanonicalCoordinates(
        jnp.pad(u, ((0, 0), (0, n - u.shape[1]))),
        jnp.pad(v, ((0, 0), (0, n - v.shape[1]))),
        jnp.pad(jnp.minimum(values, largest), (0, n - values.shape[0])),
    )
