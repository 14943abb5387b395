"""The methods of the study, each with a small grid of settings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt
from gtddp_lab.studies.joint.problem import ResidualProblem, Samples
from gtddp_lab.studies.joint.soap import scale_by_soap
from gtddp_lab.studies.joint.tanh_network import TanhNetwork

JOINT = "joint game"
"""Family of the joint game."""

SPRING = "SPRING"
"""Family of the joint game with the options that make it SPRING."""

Advance = Callable[[TanhNetwork, Any, Mapping[str, Samples]], tuple[TanhNetwork, Any]]
"""One step: `(params, state, samples)` -> the next parameters and state."""


@dataclasses.dataclass(frozen=True)
class StudiedMethod:
    """A method with one setting.

    Attributes:
        family: its name, such as "Adam"; of each family the best setting is shown.
        setting: for the table.
        make: `make(problem, steps)` -> functions `init(params)` and `advance`. `steps` is the
            number of steps that fit into the time, for schedules; it may be traced.
        steps_per_call: steps in one compiled call.
        scheduled: whether `steps` matters.
        batch_factor: how much larger the method's fixed samples are where others draw new ones;
            0 to draw new ones as well.
        sample_share: share of the problem's samples that a step draws, where it draws new ones.
    """

    family: str
    setting: str
    make: Callable[[ResidualProblem, jax.Array], tuple[Callable[[TanhNetwork], Any], Advance]]
    steps_per_call: int = 1
    scheduled: bool = False
    batch_factor: int = 0
    sample_share: float = 1.0


def half_cosine(rate: float, steps: jax.Array) -> Callable[[Any], jax.Array]:
    """A rate that decays to zero over `steps`, which may be traced."""
    return lambda count: rate * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / steps, 1.0)))


def share_text(share: float) -> str:
    """How a setting says that its steps draw fewer samples."""
    return "" if share == 1 else f", {share:g} of the points"


def adam_method(rate: float, sample_share: float = 1.0) -> StudiedMethod:
    """Adam with a rate that decays to zero along half a cosine over the time of the run."""
    setting = f"rate {rate:g}, cosine{share_text(sample_share)}"
    return _first_order_method("Adam", setting, optax.scale_by_adam(), rate, sample_share)


def soap_method(rate: float, sample_share: float = 1.0) -> StudiedMethod:
    """SOAP, likewise."""
    setting = f"rate {rate:g}, cosine{share_text(sample_share)}"
    return _first_order_method("SOAP", setting, scale_by_soap(), rate, sample_share)


def _first_order_method(
    family: str, setting: str, direction: Any, rate: float, sample_share: float
) -> StudiedMethod:
    def make(
        problem: ResidualProblem, steps: jax.Array
    ) -> tuple[Callable[[TanhNetwork], Any], Advance]:
        tx = optax.chain(direction, optax.scale_by_learning_rate(half_cosine(rate, steps)))

        def advance(params: TanhNetwork, state: Any, samples: Mapping[str, Samples]) -> Any:
            gradient = jax.grad(problem.objective)(params, samples)
            updates, state = tx.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        return tx.init, advance

    return StudiedMethod(family, setting, make, 20, scheduled=True, sample_share=sample_share)


def lbfgs_method(memory: int, batch_factor: int = 8) -> StudiedMethod:
    """`optax.lbfgs` with its line search; its samples never change.

    Args:
        memory: number of past steps.
        batch_factor: how many more samples than others it has where these draw new ones.
    """

    def make(
        problem: ResidualProblem, steps: jax.Array
    ) -> tuple[Callable[[TanhNetwork], Any], Advance]:
        del steps
        tx = optax.lbfgs(memory_size=memory)

        def advance(params: TanhNetwork, state: Any, samples: Mapping[str, Samples]) -> Any:
            def objective(params: TanhNetwork) -> jax.Array:
                return problem.objective(params, samples)

            value, gradient = optax.value_and_grad_from_state(objective)(params, state=state)
            updates, state = tx.update(
                gradient, state, params, value=value, grad=gradient, value_fn=objective
            )
            return optax.apply_updates(params, updates), state

        return tx.init, advance

    setting = (
        f"memory {memory}" if batch_factor == 8 else f"memory {memory}, {batch_factor} x points"
    )
    return StudiedMethod("L-BFGS", setting, make, 5, batch_factor=batch_factor)


def joint_method(
    setting: str, sample_share: float = 1.0, *, family: str = JOINT, **options: Any
) -> StudiedMethod:
    """The joint game.

    Args:
        setting: for the table.
        sample_share: share of the problem's samples in each step.
        family: another name, if the options make it a known method.
        **options: of `gtddp_jax.joint`; a callable `step` is called with the number of steps.
    """

    def make(
        problem: ResidualProblem, steps: jax.Array
    ) -> tuple[Callable[[TanhNetwork], Any], Advance]:
        given = {
            name: value(steps) if isinstance(value, ForSteps) else value
            for name, value in options.items()
        }
        tx = gt.joint(problem.terms, **given)

        def advance(params: TanhNetwork, state: Any, samples: Mapping[str, Samples]) -> Any:
            updates, state = tx.update(None, state, params, batch=samples)  # type: ignore[arg-type]
            return optax.apply_updates(params, updates), state

        return tx.init, advance

    scheduled = any(isinstance(value, ForSteps) for value in options.values())
    setting += share_text(sample_share)
    return StudiedMethod(family, setting, make, scheduled=scheduled, sample_share=sample_share)


@dataclasses.dataclass(frozen=True)
class ForSteps:
    """An option that depends on the number of steps of the run.

    Attributes:
        option: number of steps -> value of the option.
    """

    option: Callable[[jax.Array], Any]

    def __call__(self, steps: jax.Array) -> Any:
        """The option for a run of that number of steps."""
        return self.option(steps)
