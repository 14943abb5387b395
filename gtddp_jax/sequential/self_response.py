"""The response of a stage to its own step: Q_uu = P^-1 + f_u^T V_xx f_u, both terms kept.

The paper's Table 1 replaces all of Q_uu by the base method's P^-1, so a stage responds to the other
stages only. With the second term its samples' weights also depend on its own step.

| symbol | meaning                                                                       | shape |
|--------|-------------------------------------------------------------------------------|-------|
| b_i    | change of loss i by the stage's momentum step: its step for a zero gradient   | [B]   |
| n_i    | -change of loss i by the stage's response to a gradient with weights 1        | [B]   |
| w_i    | weight of sample i: the root of w_i = psi'_i(s_i + d_i (b_i - n_i w_i))       | [B]   |

For a single sample this is Bellman's recursion with the whole Q_uu (a rank-one update of P^-1). For
a batch the exact stage is a system of B equations; the scalar equation replaces row i of it by
`n_i w_i`, as `weighting.Full` does for the whole network (docs/mathematics_games.md, "The
implicit game").
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from gtddp_jax.core.types import PerSample, PlayerTrees
from gtddp_jax.curvature import Policy
from gtddp_jax.network.protocol import PlayerTape
from gtddp_jax.terminal import TerminalExpansion
from gtddp_jax.terminal.scalar_equation import solve_sample_weights


def stage_jvp(tapes: Mapping[str, PlayerTape], step: PlayerTrees) -> PerSample:
    """`G_i . step` over the players of a stage, [B]."""
    changes = [
        tape.sample_gradients.directional_derivative(step[name]) for name, tape in tapes.items()
    ]
    return jnp.stack(changes).sum(0)


class SelfResponse(NamedTuple):
    """The first-order effect of a stage's own step on each sample's loss.

    Attributes:
        momentum_change: b [B].
        weight_influence: n [B].
    """

    momentum_change: PerSample
    weight_influence: PerSample

    def solve_weights(
        self, terminal: TerminalExpansion, shift: PerSample, d: PerSample
    ) -> PerSample:
        """The root w [B] of `w = psi'(shift + d (b - n w))`."""
        # Later stages respond to this stage's own change too, which leaves a fraction d of it.
        constant_shift = shift + d * self.momentum_change
        return solve_sample_weights(
            terminal, constant_shift, d * self.weight_influence, bounds=terminal.bounds
        )


def compute_self_response(
    policy: Policy,
    open_gradient: PlayerTrees,
    running_gradient: PlayerTrees,
    plain_gradient: PlayerTrees,
    tapes: Mapping[str, PlayerTape],
) -> SelfResponse:
    """The first-order effect of a stage's own step.

    Args:
        policy: the stage's policy.
        open_gradient: its Q_u.
        running_gradient: the gradient of the running cost, which belongs to no sample.
        plain_gradient: Q_u with all sample weights 1.
        tapes: what the pass recorded of the stage's players.
    """
    # The running cost alone yields the step without any sample: momentum and weight decay. What the
    # step for all samples adds to it is the response to their gradients.
    momentum_step, _ = policy.closed_loop_step(open_gradient, running_gradient)
    plain_step, _ = policy.closed_loop_step(open_gradient, plain_gradient)
    momentum_change = stage_jvp(tapes, policy.predicted_step(running_gradient, momentum_step))
    plain_change = stage_jvp(tapes, policy.predicted_step(plain_gradient, plain_step))
    return SelfResponse(momentum_change, momentum_change - plain_change)
