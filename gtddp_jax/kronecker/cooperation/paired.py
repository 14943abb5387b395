"""`joint` for two players: the Gauss-Newton block with `Q_uv = + A_uv (x) B_uv`.

With A' and B' damped, Cholesky factors `A'_uu = L_u L_u^T` and the singular values of
`L_u^-1 A_uv L_v^-T = X diag(s) Y^T` (canonical correlations), and the same for B with t, the whole
block falls apart into 2 x 2 matrices `[[1, s_p t_q], [s_p t_q, 1]]`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from gtddp_jax.core.types import Number
from gtddp_jax.kronecker.cooperation import joint_factors
from gtddp_jax.kronecker.cooperation.base import Batch, Cooperation, Own, State
from gtddp_jax.kronecker.cooperation.correction import corrected
from gtddp_jax.kronecker.cooperation.joint_factors import Joint
from gtddp_jax.kronecker.operators import Matrices, Operator


class Canonical(NamedTuple):
    """Canonical coordinates of two players on one side.

    Attributes:
        u: [width of u, n], with n the larger width; missing columns are zero.
        v: [width of v, n].
        correlations: in [0, 1), [n].
    """

    u: jax.Array
    v: jax.Array
    correlations: jax.Array


class Pair(NamedTuple):
    """State.

    Attributes:
        joint: the running joint factors.
        inputs: canonical coordinates of the inputs.
        outputs: canonical coordinates of the output adjoints.
        gamma: the damping that is in them.
    """

    joint: Joint
    inputs: Canonical
    outputs: Canonical
    gamma: Number


@dataclasses.dataclass(frozen=True)
class TwoByTwo(Operator):
    """The inverse of the block in canonical coordinates."""

    u: str
    v: str
    inputs: Canonical
    outputs: Canonical

    def __call__(self, m: Matrices) -> dict[str, jax.Array]:
        """See `Operator`."""
        a, b = self.inputs, self.outputs
        x, y = a.u.T @ m[self.u][0] @ b.u, a.v.T @ m[self.v][0] @ b.v
        c = a.correlations[:, None] * b.correlations[None]
        det = (1 - c) * (1 + c)
        return {
            self.u: (a.u @ ((x - c * y) / det) @ b.u.T)[None],
            self.v: (a.v @ ((y - c * x) / det) @ b.v.T)[None],
        }


@dataclasses.dataclass(frozen=True)
class Paired(Cooperation):
    """Two players solved as one.

    Attributes:
        correct: whether own blocks take the players' own tables, see `correction`.
    """

    correct: bool

    def init(self, dtype: Any) -> Pair:
        """See `Cooperation`."""
        u, v = self.layouts.values()
        return Pair(
            joint_factors.init(self.layouts, dtype),
            _blank(u.rows, v.rows, dtype),
            _blank(u.columns, v.columns, dtype),
            jnp.ones((), dtype),
        )

    def observe(self, state: State, batch: Batch) -> Pair:
        """See `Cooperation`."""
        return state._replace(joint=joint_factors.observed(state.joint, self.layouts, batch))

    def refresh(self, state: State, gamma: Number) -> Pair:
        """See `Cooperation`."""
        damped = joint_factors.damped(state.joint, self.layouts, gamma)
        u, _ = self.layouts.values()
        return Pair(
            state.joint,
            _canonical(damped.inputs, u.rows),
            _canonical(damped.outputs, u.columns),
            jnp.asarray(gamma, state.gamma.dtype),
        )

    def operator(self, state: State, own: Mapping[str, Own], gamma: Number) -> Operator:
        """See `Cooperation`."""
        del gamma
        u, v = self.layouts
        inverse = TwoByTwo(u, v, state.inputs, state.outputs)
        return corrected(inverse, own, state.gamma) if self.correct else inverse


def _blank(u: int, v: int, dtype: Any) -> Canonical:
    n = max(u, v)
    return Canonical(jnp.eye(u, n, dtype=dtype), jnp.eye(v, n, dtype=dtype), jnp.zeros(n, dtype))


def _canonical(damped: jax.Array, split: int) -> Canonical:
    """From a damped joint factor whose first `split` rows are u's."""
    n = max(split, damped.shape[0] - split)
    lower_u = jnp.linalg.cholesky(damped[:split, :split])
    lower_v = jnp.linalg.cholesky(damped[split:, split:])
    half = solve_triangular(lower_u, damped[:split, split:], lower=True)
    whitened = solve_triangular(lower_v, half.T, lower=True).T
    x, values, y = jnp.linalg.svd(whitened, full_matrices=True)
    u = solve_triangular(lower_u.T, x, lower=False)
    v = solve_triangular(lower_v.T, y.T, lower=False)
    # Rounding may push a correlation to 1, where the 2 x 2 matrices have no inverse.
    most = 1 - jnp.finfo(values.dtype).eps
    return Canonical(
        jnp.pad(u, ((0, 0), (0, n - u.shape[1]))),
        jnp.pad(v, ((0, 0), (0, n - v.shape[1]))),
        jnp.pad(jnp.minimum(values, most), (0, n - values.shape[0])),
    )
