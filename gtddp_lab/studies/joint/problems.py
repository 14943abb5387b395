"""All problems of the study, with the settings of each method."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gtddp_jax import step_control
from gtddp_lab.studies.joint.burgers import burgers_problem
from gtddp_lab.studies.joint.methods import (
    ForSteps,
    StudiedMethod,
    adam_method,
    half_cosine,
    joint_method,
    lbfgs_method,
)
from gtddp_lab.studies.joint.poisson import (
    heat_problem,
    pair_products,
    poisson_problem,
    sine_product,
)
from gtddp_lab.studies.joint.problem import ResidualProblem


@dataclasses.dataclass(frozen=True)
class StudyCase:
    """A problem with the settings that are compared on it.

    Attributes:
        problem: () -> the problem.
        methods: all settings of all families.
        seconds: of each run, those that compare settings included.
        long_steps: length of one more run of the joint game, for comparison with published errors.
    """

    problem: Callable[[], ResidualProblem]
    methods: tuple[StudiedMethod, ...]
    seconds: float
    long_steps: int = 0


SECONDS = 20.0
"""Of each run."""

FIRST_ORDER = (*map(adam_method, (1e-3, 3e-3, 1e-2)), lbfgs_method(20))
"""The settings of Adam and L-BFGS, the same on all problems."""

SMALL_STEPS = (
    joint_method("damping 1e-8, line search", damping=1e-8),
    joint_method("damping 1e-10, line search", damping=1e-10),
)
"""Settings of the joint game where all samples are in every step, or enough of them."""


def switch_to_rate(steps: jax.Array) -> step_control.SwitchStep:
    """A line search for a quarter of the steps, then a rate that decays from 0.3 to zero."""
    first = steps // 4
    later = step_control.FixedRate(half_cosine(0.3, steps - first))
    return step_control.SwitchStep(step_control.LineSearch(), later, first)  # type: ignore[arg-type]


FEW_SAMPLES = (
    joint_method(
        "SPRING's published: damping 4.98e-5, momentum 0.968, rate 0.0603",
        damping=4.98e-5,
        momentum=0.968,
        step=step_control.FixedRate(0.0603),
    ),
    *(
        joint_method(
            f"damping {damping:g}, momentum 0.9, line search then decaying rate",
            damping=damping,
            momentum=0.9,
            step=ForSteps(switch_to_rate),
        )
        for damping in (1e-4,)
    ),
)
"""Settings of the joint game for few fresh samples in each step."""

MODERATE_SAMPLES = (
    joint_method("damping 1e-6, line search", damping=1e-6),
    joint_method("damping 1e-7, line search", damping=1e-7),
)
"""Settings of the joint game for fresh samples, about as many as parameters."""

CASES: dict[str, StudyCase] = {
    "poisson2": StudyCase(
        lambda: poisson_problem(
            "Poisson equation, 2-D",
            (2, 64, 64, 48, 48, 1),
            sine_product,
            2 * jnp.pi**2,
            (900, 120),
            fresh=False,
        ),
        (*FIRST_ORDER, *SMALL_STEPS),
        SECONDS,
        long_steps=98,
    ),
    "heat": StudyCase(
        lambda: heat_problem((2, 64, 64, 48, 48, 1), (900, 120)),
        (*FIRST_ORDER, *SMALL_STEPS),
        SECONDS,
    ),
    "poisson10": StudyCase(
        lambda: poisson_problem(
            "Poisson equation, 10-D",
            (10, 256, 256, 128, 128, 1),
            pair_products,
            0.0,
            (100, 50),
            fresh=True,
        ),
        (*FIRST_ORDER, *FEW_SAMPLES),
        SECONDS,
    ),
    "burgers": StudyCase(
        lambda: burgers_problem((2, 20, 20, 20, 20, 1), (400, 400)),
        (*FIRST_ORDER, *MODERATE_SAMPLES),
        SECONDS,
    ),
}
"""The problems by name."""

QUICK_CASES: dict[str, StudyCase] = {
    "poisson2": StudyCase(
        lambda: poisson_problem(
            "Poisson equation, 2-D", (2, 16, 16, 1), sine_product, 2 * jnp.pi**2, (100, 40), False
        ),
        (FIRST_ORDER[1], FIRST_ORDER[3], SMALL_STEPS[0]),
        1.0,
    ),
}
"""A small version of one of them."""
