"""A stage's answer to its own step: Q_uu = P^-1 + f_u^T V_xx f_u, both terms kept (DESIGN §4).

| symbol | meaning                                                                       | shape |
|--------|-------------------------------------------------------------------------------|-------|
| b_i    | change of the loss by the stage's drift: its step for a vanishing gradient    | [B]   |
| n_i    | -change of the loss by its answer to the plain gradient, all weights 1        | [B]   |
| w_i    | psi'_i(s + d (b - n w)): the weight when the batch shares the sample's weight | [B]   |

For one sample this is Bellman's recursion with the whole Q_uu, exactly (a rank-one update of P^-1).
For more, the exact stage is a B x B system; the scalar equation puts `n_i w_i` for its i-th row, as
`product` does for the whole network.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from gtddp_jax.core.types import PerSample, Tree
from gtddp_jax.curvature import Move, Policy
from gtddp_jax.terminal import Expansion
from gtddp_jax.terminal.solve import scalar_weights


def dot(moves: Mapping[str, Move], step: Tree) -> PerSample:
    """`G_i . step` over the players of a stage, [B]."""
    return jnp.stack([move.samples.dot(step[name]) for name, move in moves.items()]).sum(0)


class Own(NamedTuple):
    """What the stage's own step does to each sample's loss, to first order.

    Attributes:
        drift: b [B].
        influence: n [B].
    """

    drift: PerSample
    influence: PerSample

    def weights(self, terminal: Expansion, shift: PerSample, d: PerSample) -> PerSample:
        """The root w [B] of `w = psi'(shift + d (b - n w))`."""
        s0, n = shift + d * self.drift, d * self.influence
        return scalar_weights(terminal, s0, n, bounds=terminal.bounds)


def own_step(policy: Policy, q: Tree, running: Tree, plain: Tree, moves: Mapping[str, Move]) -> Own:
    """What the stage's own step does, drift and answer apart.

    Args:
        policy: the stage's policy.
        q: its Q_u.
        running: the part of Q_u that is no sample's, `l_u`.
        plain: Q_u with all weights 1.
        moves: the players' moves.
    """
    rest, _ = policy.respond(q, running)
    step, _ = policy.respond(q, plain)
    drift = dot(moves, rest)
    return Own(drift, drift - dot(moves, step))
