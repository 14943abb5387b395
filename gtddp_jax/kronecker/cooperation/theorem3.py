"""`theorem3` and `rescale` through joint factors (paper Eq. 16-18, 51-54).

    k_u = -sum_v (A_ww^-1)_uv Q_v (B_ww^-1)_vu

with factored damping on A_ww and B_ww before they are inverted, through Cholesky factors: the
Schur complements A~_uu are never formed. In these formulas `Q_uv = -A_uv (x) B_uv` (Eq. 54), while
the Gauss-Newton matrix has a plus there; `joint` is that one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Number
from gtddp_jax.kronecker.cooperation import joint_factors
from gtddp_jax.kronecker.cooperation.base import Batch, Cooperation, Own, State
from gtddp_jax.kronecker.cooperation.correction import corrected
from gtddp_jax.kronecker.cooperation.joint_factors import Joint
from gtddp_jax.kronecker.operators import Matrices, Operator


class Inverses(NamedTuple):
    """State.

    Attributes:
        joint: the running joint factors.
        inputs: A_ww^-1, damped, [all rows, all rows].
        outputs: B_ww^-1, damped, [all columns, all columns].
        gamma: the damping that is in them.
    """

    joint: Joint
    inputs: jax.Array
    outputs: jax.Array
    gamma: Number


@dataclasses.dataclass(frozen=True)
class Blocks(Operator):
    """`m_u -> sum_v (A_ww^-1)_uv m_v (B_ww^-1)_vu`, or with v = u alone."""

    inputs: jax.Array
    outputs: jax.Array
    rows: Mapping[str, slice]
    columns: Mapping[str, slice]
    own_only: bool

    def __call__(self, m: Matrices) -> dict[str, jax.Array]:
        """See `Operator`."""

        def part(u: str, v: str) -> jax.Array:
            a = self.inputs[self.rows[u], self.rows[v]]
            b = self.outputs[self.columns[v], self.columns[u]]
            return a @ m[v][0] @ b

        def total(u: str) -> jax.Array:
            others = [u] if self.own_only else list(m)
            return jnp.stack([part(u, v) for v in others]).sum(0)[None]

        return {u: total(u) for u in m}


@dataclasses.dataclass(frozen=True)
class Theorem3(Cooperation):
    """The paper's cooperative matrices.

    Attributes:
        own_only: whether a player leaves the others' gradients out (`rescale`).
        correct: whether own blocks take the players' own tables, see `correction`.
    """

    own_only: bool
    correct: bool

    def init(self, dtype: Any) -> Inverses:
        """See `Cooperation`."""
        joint = joint_factors.init(self.layouts, dtype)
        return Inverses(
            joint,
            jnp.eye(joint.inputs.total.shape[-1], dtype=dtype),
            jnp.eye(joint.outputs.total.shape[-1], dtype=dtype),
            jnp.ones((), dtype),
        )

    def observe(self, state: State, batch: Batch) -> Inverses:
        """See `Cooperation`."""
        return state._replace(joint=joint_factors.observed(state.joint, self.layouts, batch))

    def refresh(self, state: State, gamma: Number) -> Inverses:
        """See `Cooperation`."""
        damped = joint_factors.damped(state.joint, self.layouts, gamma)
        return Inverses(
            state.joint,
            _inverse(damped.inputs),
            _inverse(damped.outputs),
            jnp.asarray(gamma, state.gamma.dtype),
        )

    def operator(self, state: State, own: Mapping[str, Own], gamma: Number) -> Operator:
        """See `Cooperation`."""
        del gamma
        blocks = Blocks(
            state.inputs,
            state.outputs,
            joint_factors.rows(self.layouts),
            joint_factors.columns(self.layouts),
            self.own_only,
        )
        return corrected(blocks, own, state.gamma) if self.correct else blocks


def _inverse(matrix: jax.Array) -> jax.Array:
    factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
    return jax.scipy.linalg.cho_solve(factor, jnp.eye(matrix.shape[0], dtype=matrix.dtype))
