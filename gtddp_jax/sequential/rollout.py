"""The rollout: each stage responds to the changes that the stages before it have made.

The change is measured as `delta_phi_t = sum g_t . dx_t` [B], in one of two ways:

- `linear`: `delta_phi_{t+1} = delta_phi_t + G_t . du_t`; no second forward pass.
- `nonlinear`: the stages run again with the new parameters (paper Alg. 1), and g . dx is summed
  over all live states.

See docs/mathematics.md, "3. The collapse".
"""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from typing_extensions import override

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import Outputs, PerSample, PlayerTrees, Tree
from gtddp_jax.curvature.base import CurvatureState
from gtddp_jax.network.protocol import NetworkPass
from gtddp_jax.sequential.backward import StagePlan, stage_gradient
from gtddp_jax.sequential.self_response import stage_jvp
from gtddp_jax.terminal import TerminalExpansion


class RolloutResult(NamedTuple):
    """The result of a rollout.

    Attributes:
        steps: the changes of the parameters, `{player: tree}`.
        states: the curvature's next state for each stage.
        sample_weights: w [stages, B], the weights of the samples' gradients in each stage.
        delta_phi: the change of each sample's loss, to first order in the outputs, [B].
        new_outputs: the network's outputs with the new parameters if the rollout computed them,
            else None.
        closed_gradients: for each stage, `l_u + (1/B) sum_i w_i G_i`, `{player: tree}`.
    """

    steps: dict[str, Tree]
    states: tuple[CurvatureState, ...]
    sample_weights: Float[Array, "stages B"]
    delta_phi: PerSample
    new_outputs: Outputs | None
    closed_gradients: tuple[PlayerTrees, ...]


class RolloutObserver(abc.ABC):
    """Measures how the steps of the stages change the losses, stage by stage.

    Args:
        network_pass: the forward and backward pass.
        params: the parameters of all players before the step, `{player: tree}`.
    """

    replays = False
    """Whether the observer runs the stages again."""

    def __init__(self, network_pass: NetworkPass, params: PlayerTrees) -> None:
        self._network_pass, self._params = network_pass, params

    @abc.abstractmethod
    def observe_step(self, t: int, plan: StagePlan, step: PlayerTrees) -> PerSample:
        """delta_phi_{t+1} [B] after stage t has taken the predicted `step`."""

    @property
    def new_outputs(self) -> Outputs | None:
        """The outputs with the new parameters, or None if they are unknown."""
        return None


class LinearRollout(RolloutObserver):
    """Sums directional derivatives."""

    _delta_phi: PerSample | None = None

    @override
    def observe_step(self, t: int, plan: StagePlan, step: PlayerTrees) -> PerSample:
        # g_{t+1} . dx_{t+1} = g_t . dx_t + G_t . du_t, by the chain rule.
        change = stage_jvp(plan.tapes, step)
        self._delta_phi = change if self._delta_phi is None else self._delta_phi + change
        return self._delta_phi


class NonlinearRollout(RolloutObserver):
    """Runs the stages again with the new parameters."""

    replays = True

    @override
    def observe_step(self, t: int, plan: StagePlan, step: PlayerTrees) -> PerSample:
        stage_params: Any = {name: self._params[name] for name in step}
        new_params: Any = optax.apply_updates(stage_params, step)
        return self._network_pass.replay_stage(t, new_params)

    @property
    @override
    def new_outputs(self) -> Outputs | None:
        return self._network_pass.new_outputs


ROLLOUTS: dict[str, type[RolloutObserver]] = {
    "linear": LinearRollout,
    "nonlinear": NonlinearRollout,
}
"""All rollouts by name."""


def closed_loop_rollout(
    plans: Sequence[StagePlan],
    params: PlayerTrees,
    terminal: TerminalExpansion,
    samples: SampleReductions,
    observer: RolloutObserver,
) -> RolloutResult:
    """The closed-loop steps of all stages."""
    steps: dict[str, Tree] = {}
    states: list[CurvatureState] = []
    weights: list[PerSample] = []
    closed_gradients: list[PlayerTrees] = []
    delta_phi: PerSample | None = None
    for t, plan in enumerate(plans):
        # Nothing changes before the first stage: its step is its open gain, unless it responds to
        # its own step.
        is_open_loop = plan.sample_weights is None or (
            delta_phi is None and plan.self_response is None
        )
        if is_open_loop:
            stage_weights = plan.sample_weights
            gradient = plan.open_gradient
            step, state = plan.policy.open_gain, plan.policy.state
        else:
            # The predicted change of each loss: pi by later stages, and the change by earlier ones,
            # of which the responses of later stages leave a fraction d.
            shift = plan.pi if delta_phi is None else plan.pi + plan.d * delta_phi
            if plan.self_response is None:
                stage_weights = terminal.derivative(shift)
            else:
                stage_weights = plan.self_response.solve_weights(terminal, shift, plan.d)
            gradient = stage_gradient(
                plan.tapes, stage_weights, params, plan.running_gradient, samples
            )
            step, state = plan.policy.closed_loop_step(plan.open_gradient, gradient)
        delta_phi = observer.observe_step(t, plan, plan.policy.predicted_step(gradient, step))
        steps.update(step)
        states.append(state)
        # The report and `observe` need explicit weights.
        weights.append(jnp.ones_like(plan.pi) if stage_weights is None else stage_weights)
        closed_gradients.append(gradient)
    assert delta_phi is not None, "a network has at least one stage"
    return RolloutResult(
        steps=steps,
        states=tuple(states),
        sample_weights=jnp.stack(weights),
        delta_phi=delta_phi,
        new_outputs=observer.new_outputs,
        closed_gradients=tuple(closed_gradients),
    )


def open_loop_rollout(plans: Sequence[StagePlan]) -> RolloutResult:
    """The step without feedback: open gains, weights of 1, and no prediction (delta_phi = 0)."""
    return RolloutResult(
        steps={name: step for plan in plans for name, step in plan.policy.open_gain.items()},
        states=tuple(plan.policy.state for plan in plans),
        sample_weights=jnp.ones((len(plans), *plans[0].pi.shape), plans[0].pi.dtype),
        delta_phi=jnp.zeros_like(plans[0].pi),
        new_outputs=None,
        closed_gradients=tuple(plan.open_gradient for plan in plans),
    )
