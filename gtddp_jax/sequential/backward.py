"""The backward pass of the game: the policy of each stage, from the last stage to the first.

| symbol  | meaning                                                               | shape |
|---------|-----------------------------------------------------------------------|-------|
| pi_t    | loss change predicted for the open gains of stages t, t+1, ...        | [B]   |
| d_t     | product of (1 - rho) over those stages                                | [B]   |
| alpha_t | psi'(pi_t), the weight of a sample's gradient: V_x = (1/B) alpha g    | [B]   |
| rho_t   | (1/B) h d_{t+1} G^T P G, clipped to [0, 1)                            | [B]   |

For a quadratic terminal model, psi' = 1 + h s, these are the recursions of alpha and c = h d in
docs/mathematics.md, "3. The collapse". With the self-response (`self_response.py`) later stages are
assumed to take the step with weights a instead of alpha, and d_t = d_{t+1} / (1 + rho_t).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.counted_samples import CountedSamples
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import PerSample, PlayerTrees
from gtddp_jax.curvature import Curvature, Policy, StageInputs
from gtddp_jax.curvature.base import CurvatureState
from gtddp_jax.network.protocol import PlayerTape, StageIndex
from gtddp_jax.sequential.self_response import SelfResponse, compute_self_response, stage_jvp
from gtddp_jax.terminal import TerminalExpansion


class StagePlan(NamedTuple):
    """The result of the backward pass for one stage.

    Attributes:
        policy: the stage's policy.
        tapes: what the pass recorded of the stage's players.
        open_gradient: Q_u, `{player: tree}`, running cost included.
        running_gradient: the gradient of the running cost, `{player: tree}`.
        pi: pi_{t+1} [B].
        d: d_{t+1} [B].
        sample_weights: alpha_{t+1} [B], or None for a stage without feedback (all ones).
        self_response: the effect of the stage's own step on the losses, or None without the
            self-response.
    """

    policy: Policy
    tapes: Mapping[str, PlayerTape]
    open_gradient: PlayerTrees
    running_gradient: PlayerTrees
    pi: PerSample
    d: PerSample
    sample_weights: PerSample | None
    self_response: SelfResponse | None = None


def stage_gradient(
    tapes: Mapping[str, PlayerTape],
    sample_weights: PerSample | None,
    params: PlayerTrees,
    running_gradient: PlayerTrees,
    samples: SampleReductions,
) -> PlayerTrees:
    """`l_u + (1/B) sum_i w_i G_i` of one stage, in the dtype of the parameters."""
    sums = {
        name: tape.sample_gradients.weighted_sum(sample_weights) for name, tape in tapes.items()
    }
    loss_gradient = samples.mean_of_sums(sums)

    # Sums over samples are at least float32; only the result is rounded to the parameters' dtype.
    def add_running_cost(param: jax.Array, gradient: jax.Array, cost: jax.Array) -> jax.Array:
        return gradient.astype(param.dtype) + cost.astype(param.dtype)

    stage_params = {name: params[name] for name in tapes}
    return jax.tree.map(add_running_cost, stage_params, loss_gradient, running_gradient)


def plan_stages(
    stage_indices: Sequence[StageIndex],
    stage_tapes: Sequence[Mapping[str, PlayerTape]],
    params: PlayerTrees,
    running_gradient: PlayerTrees,
    states: Sequence[CurvatureState],
    curvature: Curvature,
    terminal: TerminalExpansion,
    counted: CountedSamples,
    arguments: Mapping[str, object],
    *,
    feedback: bool,
    self_response: bool,
    coupled_stages: int,
) -> list[StagePlan]:
    """Plans all stages; the result starts with the first stage.

    Args:
        stage_indices: the stages.
        stage_tapes: for each stage, what the pass recorded of its players.
        params: the parameters of all players.
        running_gradient: the gradient of the running cost, `{player: tree}`.
        states: the curvature's state for each stage.
        curvature: the base method.
        terminal: the terminal model, expanded at the outputs.
        counted: the samples that have a gradient.
        arguments: see `StageInputs`.
        feedback: False for the base method itself, alpha = 1.
        self_response: whether a stage also responds to its own step.
        coupled_stages: the number of stages, counted from the first, that come before the last
            batch normalization; they have no feedback. Normalization couples samples, so a weighted
            sum of their per-sample gradients is not the gradient of any loss. It has a component
            along the weights whose scale the normalization removes, and makes them grow
            (docs/ideas.md).
    """
    samples = counted.samples
    # No stage acts after the last one: nothing is predicted, and psi'(0) = 1.
    pi = jnp.zeros_like(terminal.curvature)
    d = jnp.ones_like(pi)
    plans: list[StagePlan] = []
    for t in reversed(range(len(stage_indices))):
        tapes = stage_tapes[t]
        stage_params = {name: params[name] for name in tapes}
        stage_cost = {name: running_gradient[name] for name in tapes}
        has_feedback = feedback and t >= coupled_stages
        # A sample whose loss later stages already reduce gets a smaller weight.
        alpha = terminal.derivative(pi) if has_feedback else None
        open_gradient = stage_gradient(tapes, alpha, stage_params, stage_cost, samples)
        inputs = StageInputs(
            open_gradient,
            stage_params,
            tapes,
            jnp.ones_like(pi) if alpha is None else alpha,
            stage_indices[t],
            counted,
            arguments,
        )
        policy = curvature.policy(inputs, states[t])
        response = None
        if has_feedback and self_response:
            plain_gradient = stage_gradient(tapes, None, stage_params, stage_cost, samples)
            response = compute_self_response(
                policy, open_gradient, stage_cost, plain_gradient, tapes
            )
        plans.append(StagePlan(policy, tapes, open_gradient, stage_cost, pi, d, alpha, response))
        # Earlier stages need pi_t and d_t only if one of them has feedback.
        if has_feedback and t > coupled_stages:
            rho = terminal.curvature * d * policy.quadratic_form() / samples.count
            if response is None:
                # To first order the open gain changes loss i by G_i . k. Later stages respond to
                # that change, which leaves a fraction d of it.
                open_step = policy.predicted_step(open_gradient, policy.open_gain)
                pi = pi + d * stage_jvp(tapes, open_step)
                # rho > 1 means a step beyond the minimum of the model; V_xx must stay >= 0.
                d = d * (1 - jnp.clip(rho, 0.0, 1 - jnp.finfo(rho.dtype).eps))
            else:
                weights = response.solve_weights(terminal, pi, d)
                gradient = stage_gradient(tapes, weights, stage_params, stage_cost, samples)
                step, _ = policy.closed_loop_step(open_gradient, gradient)
                pi = pi + d * stage_jvp(tapes, policy.predicted_step(gradient, step))
                # Inverting the whole Q_uu gives 1 - rho / (1 + rho), which needs no upper bound.
                d = d / (1 + jnp.maximum(rho, 0.0))
    return plans[::-1]
