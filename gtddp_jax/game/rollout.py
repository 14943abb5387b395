"""The rollout: every stage answers to what the stages before it have changed (DESIGN §3).

What has changed is read as `delta_phi_t = sum g_t . dx_t` [B], in one of two ways:

- `linear`: `delta_phi_{t+1} = delta_phi_t + G_t . du_t`; no second forward pass.
- `nonlinear`: the stages run again with the new parameters (paper Alg. 1), and g . dx is summed
  over all live states.
"""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import Outputs, PerSample, Tree
from gtddp_jax.game.backward import StagePlan, stage_gradient
from gtddp_jax.game.own import dot
from gtddp_jax.network.protocol import Pass
from gtddp_jax.terminal import Expansion


class Rolled(NamedTuple):
    """The outcome of a rollout.

    Attributes:
        steps: the change of the parameters, `{player: tree}`.
        states: the curvature's next states, one a stage.
        weights: w [T, B], the weights of the samples' gradients in each stage.
        delta_phi: change of each sample's loss, to first order in the outputs, [B].
        outputs: the network's outputs with the new parameters if the rollout ran it, else None.
        closed: for each stage, the closed gradient `l_u + (1/B) sum w G`, `{player: tree}`.
    """

    steps: Tree
    states: tuple[Any, ...]
    weights: Float[Array, "stages B"]
    delta_phi: PerSample
    outputs: Outputs | None
    closed: tuple[Tree, ...]


class Observer(abc.ABC):
    """Sees the steps of the stages, in order, and tells what they change.

    Args:
        played: the pass.
        params: all parameters before the step, `{player: tree}`.
    """

    replays = False
    """Whether it runs the stages again."""

    def __init__(self, played: Pass, params: Tree) -> None:
        self._played, self._params = played, params

    @abc.abstractmethod
    def see(self, t: int, plan: StagePlan, step: Tree) -> PerSample:
        """delta_phi_{t+1} [B] once stage t has taken its step."""

    @property
    def outputs(self) -> Tree | None:
        """The new outputs of the network, where they are known."""
        return None


class Linear(Observer):
    """Adds up directional derivatives."""

    _delta: jax.Array | None = None

    def see(self, t: int, plan: StagePlan, step: Tree) -> PerSample:
        """See `Observer`."""
        change = dot(plan.moves, step)
        self._delta = change if self._delta is None else self._delta + change
        return self._delta


class Nonlinear(Observer):
    """Runs the stages again."""

    replays = True

    def see(self, t: int, plan: StagePlan, step: Tree) -> PerSample:
        """See `Observer`."""
        new: Any = optax.apply_updates({name: self._params[name] for name in step}, step)
        return self._played.replay(t, new)

    @property
    def outputs(self) -> Tree | None:
        """See `Observer`."""
        return self._played.new_outputs


ROLLOUTS: dict[str, type[Observer]] = {"linear": Linear, "nonlinear": Nonlinear}
"""All rollouts by name."""


def roll(
    plans: Sequence[StagePlan],
    params: Tree,
    terminal: Expansion,
    samples: Samples,
    observer: Observer,
) -> Rolled:
    """The closed-loop steps of all stages.

    Nothing changes before the first stage: without its own curvature its step is its open gain.
    """
    steps: Tree = {}
    states, weights, closed = [], [], []
    delta: jax.Array | None = None
    for t, plan in enumerate(plans):
        if plan.alpha is None or (delta is None and plan.own is None):
            w = jnp.ones_like(plan.pi) if plan.alpha is None else plan.alpha
            q = plan.q
            step, state = plan.policy.open_gain, plan.policy.state
        else:
            own = {name: params[name] for name in plan.moves}
            shift = plan.pi if delta is None else plan.pi + plan.d * delta
            if plan.own is None:
                w = terminal.slope(shift)
            else:
                w = plan.own.weights(terminal, shift, plan.d)
            q = stage_gradient(plan.moves, w, own, plan.running, samples)
            step, state = plan.policy.respond(plan.q, q)
        delta = observer.see(t, plan, step)
        steps.update(step)
        states.append(state)
        weights.append(w)
        closed.append(q)
    assert delta is not None
    return Rolled(steps, tuple(states), jnp.stack(weights), delta, observer.outputs, tuple(closed))


def open_loop(plans: Sequence[StagePlan]) -> Rolled:
    """Feedback off: the open gains, all weights 1, no prediction for single samples (zeros)."""
    ones = jnp.ones((len(plans), *plans[0].pi.shape), plans[0].pi.dtype)
    return Rolled(
        steps={name: step for plan in plans for name, step in plan.policy.open_gain.items()},
        states=tuple(plan.policy.state for plan in plans),
        weights=ones,
        delta_phi=jnp.zeros_like(plans[0].pi),
        outputs=None,
        closed=tuple(plan.q for plan in plans),
    )
