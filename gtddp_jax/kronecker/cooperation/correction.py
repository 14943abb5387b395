"""Own blocks that are not a Kronecker product: exact damping, and EKFAC's second moments.

Joint factors need factored damping, with which a player's own block is `A' (x) B'`. In its own
eigenbasis C = sqrt(P_own A' (x) B') is diagonal, and `C P C` keeps how the players are correlated
while a player without a companion has exactly its own P.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Number
from gtddp_jax.kronecker import damping
from gtddp_jax.kronecker.bases import Table, rescaled
from gtddp_jax.kronecker.cooperation.base import Own
from gtddp_jax.kronecker.operators import Matrices, Operator


@dataclasses.dataclass(frozen=True)
class Corrected(Operator):
    """`C P C` with C a table over each player's own coordinates."""

    inner: Operator
    own: Mapping[str, Own]
    tables: Mapping[str, Table]

    def _scaled(self, m: Matrices) -> dict[str, jax.Array]:
        return {
            name: rescaled(x, self.own[name].left, self.own[name].right, self.tables[name])
            for name, x in m.items()
        }

    def __call__(self, m: Matrices) -> dict[str, jax.Array]:
        """See `Operator`."""
        return self._scaled(self.inner(self._scaled(m)))


def corrected(inner: Operator, own: Mapping[str, Own], gamma: Number) -> Operator:
    """Gives `inner`, made with factored damping gamma, the players' own tables."""

    def table(player: Own) -> Table:
        product = damping.factored(player.left, player.right, gamma)
        return Table(jnp.sqrt(player.scale.inside * product), player.scale.outside)

    return Corrected(inner, own, {name: table(player) for name, player in own.items()})
