"""The backward pass of the game: policies, from the last stage to the first (DESIGN §3, §4).

| symbol | meaning                                                                  | shape |
|--------|--------------------------------------------------------------------------|-------|
| pi_t   | predicted loss change by the open gains of stages t, t+1, ...            | [B]   |
| d_t    | product of (1 - rho) over those stages                                   | [B]   |
| alpha_t| psi'(pi_t): weight of a sample's gradient, V_x = (1/B) alpha g           | [B]   |
| rho_t  | (1/B) h d_{t+1} G^T P G, clamped to [0, 1)                               | [B]   |

For a straight slope psi' = 1 + h s these are the recursions of alpha and c = h d in DESIGN §3.

With the layer's own curvature (`own.py`) the later stages are taken to step with weights a instead
of alpha, and d_t = d / (1 + rho).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import Tree
from gtddp_jax.curvature import Curvature, Move, Place, Policy
from gtddp_jax.game.own import Own, dot, own_step
from gtddp_jax.terminal import Expansion


class StagePlan(NamedTuple):
    """What the backward pass decides for one stage.

    Attributes:
        policy: its policy.
        moves: its players' moves.
        q: Q_u, `{player: tree}`, running cost included.
        running: the gradient of the running cost, `{player: tree}`.
        pi: pi_{t+1} [B].
        d: d_{t+1} [B].
        alpha: alpha_{t+1} [B], or None without feedback in this stage (all ones).
        own: what the stage's own step does to the losses; None without its own curvature.
    """

    policy: Policy
    moves: Mapping[str, Move]
    q: Tree
    running: Tree
    pi: jax.Array
    d: jax.Array
    alpha: jax.Array | None
    own: Own | None = None


def stage_gradient(
    moves: Mapping[str, Move],
    w: jax.Array | None,
    params: Tree,
    running: Tree,
    samples: Samples,
) -> Tree:
    """`l_u + (1/B) sum_i w_i G_i` of one stage, in the dtype of the parameters."""
    sums = {name: move.samples.weighted(w) for name, move in moves.items()}
    mean = samples.mean_of_sums(sums)

    def total(like: jax.Array, g: jax.Array, cost: jax.Array) -> jax.Array:
        return g.astype(like.dtype) + cost.astype(like.dtype)

    return jax.tree.map(total, {name: params[name] for name in moves}, mean, running)


def places(stages: Sequence[Any]) -> list[Place]:
    """Every stage with its number."""
    return [Place(stage, t, len(stages)) for t, stage in enumerate(stages)]


def plan(
    places: Sequence[Place],
    all_moves: Sequence[Mapping[str, Move]],
    params: Tree,
    running: Tree,
    states: Sequence[Any],
    curvature: Curvature,
    terminal: Expansion,
    samples: Samples,
    *,
    feedback: bool,
    own_curvature: bool,
    coupled: int,
) -> list[StagePlan]:
    """Policies of all stages, first stage first.

    Args:
        places: the stages.
        all_moves: the players' moves in each stage.
        params: all parameters.
        running: gradients of the running cost, `{player: tree}`.
        states: the curvature's state for each stage.
        curvature: the base method.
        terminal: the terminal model at the outputs.
        samples: the sample axis.
        feedback: False for the base method itself, alpha = 1.
        own_curvature: whether a stage answers to its own step too.
        coupled: so many stages at the beginning have no feedback, because their samples are
            coupled by a batch normalisation that follows. A weighted sum of their per-sample
            gradients is the gradient of no loss, and has a part along weights whose scale the
            normalisation takes away, which makes them grow (docs/evidence.md).
    """
    pi = jnp.zeros_like(terminal.curvature)
    d = jnp.ones_like(pi)
    plans: list[StagePlan] = []
    for t in reversed(range(len(places))):
        moves = all_moves[t]
        own = {name: params[name] for name in moves}
        cost = {name: running[name] for name in moves}
        answers = feedback and t >= coupled
        alpha = terminal.slope(pi) if answers else None
        q = stage_gradient(moves, alpha, own, cost, samples)
        weights = jnp.ones_like(pi) if alpha is None else alpha
        policy = curvature.policy(q, states[t], own, moves, weights, places[t], samples)
        within = None
        if answers and own_curvature:
            plain = stage_gradient(moves, None, own, cost, samples)
            within = own_step(policy, q, cost, plain, moves)
        plans.append(StagePlan(policy, moves, q, cost, pi, d, alpha, within))
        if answers and t > coupled:
            form = policy.quadratic({name: move.samples for name, move in moves.items()})
            rho = terminal.curvature * d * form / samples.count
            if within is None:
                pi = pi + d * dot(moves, policy.open_gain)
                d = d * (1 - jnp.clip(rho, 0.0, 1 - jnp.finfo(rho.dtype).eps))
            else:
                a = within.weights(terminal, pi, d)
                step, _ = policy.respond(q, stage_gradient(moves, a, own, cost, samples))
                pi = pi + d * dot(moves, step)
                d = d / (1 + jnp.maximum(rho, 0.0))
    return plans[::-1]
