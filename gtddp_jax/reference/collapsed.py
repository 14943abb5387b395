"""The collapsed recursions by definition: dense gradients of single samples, plain loops.

`ddp_step` does not apply to the exact-loss terminal model, which has no Hessian, nor to networks
whose samples are coupled (batch normalization), which have no Jacobians of single samples. For them
the step is defined by the recursions of docs/mathematics.md, "3. The collapse", "4. Terminal
models" and "7. Batch coupling and precision". This module evaluates them without the optimizer's
per-sample sums:

| symbol  | definition                                                               | shape  |
|---------|--------------------------------------------------------------------------|--------|
| G_t,i   | gradient of sum_j phi_j by sample i's own copy of the stage's parameters | [B, m] |
| g_t,i   | gradient of sum_j phi_j by sample i's states before the stage            | [B, n] |
| psi'_i  | derivative of the terminal model of sample i at a predicted change       | [B]    |
| pi, d   | predicted loss change by later stages; factor on the change before them  | [B]    |
| b, n    | loss change by the momentum step; -change by the response to all samples | [B]    |
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Shaped

from gtddp_jax.core.types import PlayerTrees, Tree
from gtddp_jax.network.program import PlayerOp, Stage, States
from gtddp_jax.reference.ddp import Gains
from gtddp_jax.reference.hessians import PerSampleLoss

REFERENCE_TERMINALS = ("exact_loss", "projected", "gradient")
BISECTIONS = 80


class _ReferenceTerminal(NamedTuple):
    """A terminal model: psi' of each sample as a function of predicted changes, and h, all [B]."""

    derivative: Callable[[jax.Array], jax.Array]
    curvature: jax.Array


class _CollapsedPlan(NamedTuple):
    """The result of the backward pass for one stage.

    Attributes:
        gradients: G [B, m].
        cost: the gradient of the running cost [m].
        gains: the gains at the open gradient.
        pi: pi_{t+1} [B].
        d: d_{t+1} [B].
        feedback: whether the stage responds to the stages before it.
        self_response: (b, n), each [B], or None without the self-response.
    """

    gradients: jax.Array
    cost: jax.Array
    gains: Gains
    pi: jax.Array
    d: jax.Array
    feedback: bool
    self_response: tuple[jax.Array, jax.Array] | None


def _expand_terminal(
    name: str,
    loss: Callable[[jax.Array], jax.Array],
    outputs: jax.Array,
    max_shift: float | None,
    bounds: tuple[float, float] | None,
) -> _ReferenceTerminal:
    batch, shape = outputs.shape[0], outputs.shape
    flat = outputs.reshape(batch, -1)

    def total_loss(flat: jax.Array) -> jax.Array:
        return loss(flat.reshape(shape)).sum()

    g = jax.grad(total_loss)(flat)
    squared_norm = (g**2).sum(-1)
    sample = jnp.arange(batch)
    hessian = jax.hessian(total_loss)(flat)[sample, :, sample, :]
    curvature = jnp.maximum(jnp.einsum("bp,bpq,bq->b", g, hessian, g) / squared_norm**2, 0)
    if name == "gradient":
        curvature = jnp.ones(batch)

    # psi'(s) = g . grad phi(x + s g / |g|^2) / |g|^2, the derivative of psi by the chain rule.
    def derivative(shift: jax.Array) -> jax.Array:
        if name != "exact_loss":
            return 1 + curvature * shift
        if max_shift is not None:
            largest = max_shift * jnp.sqrt(squared_norm)
            shift = jnp.clip(shift, -largest, largest)
        shifted_gradient = jax.grad(total_loss)(flat + (shift / squared_norm)[:, None] * g)
        result = (g * shifted_gradient).sum(-1) / squared_norm
        return result if bounds is None else jnp.clip(result, *bounds)

    return _ReferenceTerminal(derivative, curvature)


def _bisect_weights(
    terminal: _ReferenceTerminal,
    shift: jax.Array,
    d: jax.Array,
    self_response: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """The root of `w = psi'(shift + d (b - n w))`.

    Where n < 0 the other samples keep a weight of 1: `w = psi'(shift + d (b - n))`.
    """
    b, n = self_response
    constant, slope = shift + d * (b + jnp.maximum(-n, 0)), d * jnp.maximum(n, 0)

    def bisect(_: jax.Array, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        above = middle > terminal.derivative(constant - slope * middle)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    # 80 bisections shrink a bracket of width 2000 below the precision of float64.
    bracket = (jnp.full_like(shift, -1e3), jnp.full_like(shift, 1e3))
    low, high = jax.lax.fori_loop(0, BISECTIONS, bisect, bracket)
    return 0.5 * (low + high)


def _outputs_of_copies(
    stages: Sequence[Stage], t: int, params: PlayerTrees, states: States, copies: PlayerTrees
) -> jax.Array:
    """The outputs, from the states before stage t and a copy of its parameters per sample."""
    for stage in stages[t:]:
        values = dict(zip(stage.inputs, states, strict=True))
        for op in stage.ops:
            sources = [values[source] for source in op.sources]
            if isinstance(op, PlayerOp) and stage is stages[t]:
                # A player expects a batch, so every sample is a batch of one.
                def apply_to_sample(
                    player_params: Tree, *inputs: jax.Array, op: PlayerOp = op
                ) -> jax.Array:
                    return op({op.name: player_params}, *(x[None] for x in inputs))[0]

                values[op.target] = jax.vmap(apply_to_sample)(copies[op.name], *sources)
            else:
                values[op.target] = op(params, *sources)
        states = tuple(values[target] for target in stage.outputs)
    return states[0]


def reference_sample_gradients(
    stages: Sequence[Stage],
    params: PlayerTrees,
    states: Sequence[States],
    loss: Callable[[jax.Array], jax.Array],
) -> tuple[list[jax.Array], list[States]]:
    """G_t [B, m] and g_t of every stage, including the coupling by batch normalization.

    Args:
        stages: the dynamics.
        params: `{player: tree}`.
        states: the states before every stage.
        loss: maps outputs to losses [B].

    Returns:
        For each stage, the gradients of each sample's loss by the parameters, and by the states
        before the stage.
    """
    batch = states[0][0].shape[0]
    gradients, adjoints = [], []
    for t, stage in enumerate(stages):
        # Differentiating by a copy per sample keeps the samples' gradients apart, although batch
        # normalization makes every loss depend on every sample.
        player_params = {name: params[name] for name in stage.players}
        copies = jax.tree.map(lambda u: jnp.broadcast_to(u, (batch, *u.shape)), player_params)

        def total_loss(copies: PlayerTrees, before: States, t: int = t) -> jax.Array:
            return loss(_outputs_of_copies(stages, t, params, before, copies)).sum()

        by_copies, by_states = jax.grad(total_loss, argnums=(0, 1))(copies, states[t])
        gradients.append(jax.vmap(lambda tree: ravel_pytree(tree)[0])(by_copies))
        adjoints.append(by_states)
    return gradients, adjoints


def collapsed_step(
    stages: Sequence[Stage],
    params: PlayerTrees,
    inputs: Shaped[Array, "B ..."],
    loss: PerSampleLoss,
    gain_rule: Callable[[int, Float[Array, " m"]], Gains],
    *,
    terminal: str = "exact_loss",
    max_shift: float | None = None,
    running_gradient: PlayerTrees | None = None,
    rollout: str = "linear",
    self_response: bool = False,
    bounds: tuple[float, float] | None = None,
    coupled_stages: int = 0,
) -> PlayerTrees:
    """One step by the collapsed recursions, literally.

    Args:
        stages: the dynamics; for a network with batch normalization, from `Network.bind`.
        params: `{player: tree}`.
        inputs: [B, ...].
        loss: maps outputs [B, ...] to losses [B].
        gain_rule: `(stage, Q_u) -> Gains`.
        terminal: "exact_loss", "projected" or "gradient".
        max_shift: for "exact_loss", a bound on the shift of the outputs, or None.
        running_gradient: the gradient of the running cost, `{player: tree}`, or None.
        rollout: "linear" or "nonlinear".
        self_response: whether a stage responds to its own step. Its weights are then the roots of
            `w = psi'(s + d (b - n w))`, see `gtddp_jax/sequential/self_response.py`; they are found
            by bisection here.
        bounds: for "exact_loss", bounds of psi', or None.
        coupled_stages: the number of stages, counted from the first, in which all samples have
            weight 1.

    Returns:
        The changes of the parameters, `{player: tree}`.

    Raises:
        ValueError: unknown `terminal` or `rollout`.
    """
    if terminal not in REFERENCE_TERMINALS:
        raise ValueError(f"Invalid terminal: {terminal!r}. Supported: {REFERENCE_TERMINALS}.")
    if rollout not in ("linear", "nonlinear"):
        raise ValueError(f"Invalid rollout: {rollout!r}. Supported: ('linear', 'nonlinear').")
    states: list[States] = [(inputs,)]
    for stage in stages:
        states.append(stage(params, states[-1]))
    # Nothing below reuses the optimizer: losses, gradients and weights are formed once more.
    model = _expand_terminal(terminal, loss, states[-1][0], max_shift, bounds)
    gradients, adjoints = reference_sample_gradients(stages, params, states, loss)
    adjoints.append(jax.grad(lambda end: loss(end[0]).sum())(states[-1]))
    costs = [
        jnp.zeros_like(stage_gradients[0])
        if running_gradient is None
        else ravel_pytree({name: running_gradient[name] for name in stage.players})[0]
        for stage, stage_gradients in zip(stages, gradients, strict=True)
    ]
    # Gains from the last stage to the first, then steps from the first to the last.
    plans = _collapsed_backward_pass(
        gradients, costs, model, gain_rule, self_response, coupled_stages
    )
    delta_phi = jnp.zeros(inputs.shape[0])
    new_params, new_states = dict(params), states[0]
    for t, (stage, plan) in enumerate(zip(stages, plans, strict=True)):
        step = _collapsed_stage_step(t, plan, model, delta_phi)
        flat_params, unravel = ravel_pytree({name: params[name] for name in stage.players})
        new_params.update(unravel(flat_params + step))
        if rollout == "linear":
            delta_phi = delta_phi + plan.gradients @ step
        else:
            new_states = stage(new_params, new_states)
            delta_phi = _loss_change(adjoints[t + 1], new_states, states[t + 1])
    return {name: jax.tree.map(jnp.subtract, new_params[name], params[name]) for name in new_params}


def _collapsed_backward_pass(
    gradients: Sequence[jax.Array],
    costs: Sequence[jax.Array],
    terminal: _ReferenceTerminal,
    gain_rule: Callable[[int, jax.Array], Gains],
    self_response: bool,
    coupled_stages: int,
) -> list[_CollapsedPlan]:
    """The recursions of pi and d, from the last stage to the first."""
    batch = gradients[0].shape[0]
    pi, d = jnp.zeros(batch), jnp.ones(batch)
    plans: list[_CollapsedPlan] = []
    for t in reversed(range(len(gradients))):
        big_g, cost = gradients[t], costs[t]
        if t < coupled_stages:  # weights of 1 in both passes
            gains = gain_rule(t, cost + big_g.mean(0))
            plans.insert(0, _CollapsedPlan(big_g, cost, gains, pi, d, False, None))
            continue
        # Q_u = l_u + (1/B) sum_i alpha_i G_i with alpha = psi'(pi).
        gains = gain_rule(t, cost + terminal.derivative(pi) @ big_g / batch)
        form = jnp.einsum("im,mn,in->i", big_g, gains.inverse, big_g)
        rho = terminal.curvature * d * form / batch
        if self_response:
            # The step is affine in the gradient: the part without samples, and their contribution.
            b = big_g @ gains.closed_loop_step(cost)
            n = b - big_g @ gains.closed_loop_step(cost + big_g.mean(0))
            plans.insert(0, _CollapsedPlan(big_g, cost, gains, pi, d, True, (b, n)))
            weights = _bisect_weights(terminal, pi, d, (b, n))
            step = gains.closed_loop_step(cost + weights @ big_g / batch)
            # The whole Q_uu is inverted, by Sherman and Morrison for one sample.
            pi, d = pi + d * (big_g @ step), d / (1 + rho)
        else:
            plans.insert(0, _CollapsedPlan(big_g, cost, gains, pi, d, True, None))
            pi, d = pi + d * (big_g @ gains.open_gain), d * (1 - rho)
    return plans


def _collapsed_stage_step(
    t: int, plan: _CollapsedPlan, terminal: _ReferenceTerminal, delta_phi: jax.Array
) -> jax.Array:
    """The step [m] of stage t, given the loss change [B] by the stages before it."""
    shift = plan.pi + plan.d * delta_phi
    if plan.self_response is not None:
        weights = _bisect_weights(terminal, shift, plan.d, plan.self_response)
    elif t == 0 or not plan.feedback:
        return plan.gains.open_gain  # nothing has changed before the first stage
    else:
        weights = terminal.derivative(shift)
    closed_gradient = plan.cost + weights @ plan.gradients / delta_phi.shape[0]
    return plan.gains.closed_loop_step(closed_gradient)


def _loss_change(adjoints: States, new_states: States, states: States) -> jax.Array:
    """`g . (x' - x)` [B], summed over all live states."""
    changes = [
        (g * (new - old)).reshape(g.shape[0], -1).sum(-1)
        for g, new, old in zip(adjoints, new_states, states, strict=True)
    ]
    return sum(changes[1:], changes[0])
