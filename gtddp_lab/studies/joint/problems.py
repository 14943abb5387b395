"""All problems of the study, with the settings of each method."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import damping, step_control
from gtddp_lab.studies.joint.allen_cahn import allen_cahn_problem
from gtddp_lab.studies.joint.burgers import burgers_problem
from gtddp_lab.studies.joint.marquardt import marquardt_method
from gtddp_lab.studies.joint.methods import (
    SPRING,
    ForSteps,
    StudiedMethod,
    adam_method,
    half_cosine,
    joint_method,
    lbfgs_method,
    soap_method,
)
from gtddp_lab.studies.joint.poisson import (
    cosine_sum,
    heat_problem,
    pair_products,
    poisson_problem,
    sine_product,
)
from gtddp_lab.studies.joint.problem import ResidualProblem
from gtddp_lab.studies.joint.regression import diabetes_problem, image_problem


@dataclasses.dataclass(frozen=True)
class StudyCase:
    """A problem with the settings that are compared on it.

    Attributes:
        problem: () -> the problem.
        methods: all settings of all families.
        seconds: of each run, those that compare settings included.
        least_steps: of each run; with 0 seconds the number of steps, whatever the time.
        most_seeds: largest number of seeds.
        long_steps: length of one more run of the joint game, for comparison with published errors.
    """

    problem: Callable[[], ResidualProblem]
    methods: tuple[StudiedMethod, ...]
    seconds: float
    least_steps: int = 0
    most_seeds: int = 3
    long_steps: int = 0


SECONDS = 20.0
"""Of each run."""

RATES = (1e-3, 3e-3, 1e-2)
"""Of Adam and SOAP."""

RIVALS = (*map(adam_method, RATES), *map(soap_method, RATES), lbfgs_method(20))
"""The settings of Adam, SOAP and L-BFGS, the same on all problems."""

BEND = 0.75
"""Bound on the acceleration, as Transtrum and Sethna have it."""

SMALL_STEPS = (
    joint_method(
        "damping 1e-5 of the loss, acceleration",
        damping=damping.LossDamping(1e-5),
        acceleration=BEND,
    ),
    joint_method(
        "damping 1e-9 of the largest eigenvalue, acceleration",
        damping=damping.RelativeDamping(1e-9),
        acceleration=BEND,
    ),
)
"""Settings of the joint game where all samples are in every step, or enough of them."""


def switch_to_rate(steps: jax.Array) -> step_control.SwitchStep:
    """A line search for a quarter of the steps, then a rate that decays from 0.3 to zero."""
    first = steps // 4
    later = step_control.FixedRate(half_cosine(0.3, steps - first))
    return step_control.SwitchStep(step_control.LineSearch(), later, first)  # type: ignore[arg-type]


SPRING_OPTIONS: dict[str, Any] = {
    "damping": 4.98e-5,
    "momentum": 0.968,
    "step": step_control.FixedRate(0.0603),
}
"""What the rla-pinns experiments found for SPRING (Goldshlager et al. 2024) on 10-D Poisson."""

SEARCHED_STEPS = 10
"""Steps with a line search, before the rate decays."""


def harmonic_rate(scale: float, start: float) -> Callable[[Any], jax.Array]:
    """`scale / (n + start)` in step n after the line search ended."""
    return lambda count: scale / (count + start)


def search_then(rate: Callable[[Any], jax.Array], steps: int) -> step_control.SwitchStep:
    """A line search for some steps, then a rate."""
    return step_control.SwitchStep(step_control.LineSearch(), step_control.FixedRate(rate), steps)


# 5 / (n + 5) in step n of the run.
decaying_rate = harmonic_rate(5, SEARCHED_STEPS + 5)

FEW_SAMPLES = (
    joint_method(
        "SPRING's published: damping 4.98e-5, momentum 0.968, rate 0.0603", **SPRING_OPTIONS
    ),
    joint_method(
        "damping 1e-4, momentum 0.9, acceleration, line search then decaying rate",
        damping=1e-4,
        momentum=0.9,
        step=ForSteps(switch_to_rate),
        acceleration=BEND,
    ),
    joint_method(
        "damping 1e-4, momentum 0.968, line search then rate 5 / (n + 5), float32 Gram matrix",
        damping=1e-4,
        momentum=0.968,
        step=search_then(decaying_rate, SEARCHED_STEPS),
        gram_dtype=jnp.float32,
    ),
)
"""Settings of the joint game for few fresh samples in each step."""

MANY_STEPS = (
    joint_method(
        "published: damping 4.98e-5, momentum 0.968, rate 0.0603", family=SPRING, **SPRING_OPTIONS
    ),
    joint_method(
        "damping 1e-4, momentum 0.968, acceleration, line search then rate 5 / (n + 5)",
        damping=1e-4,
        momentum=0.968,
        step=search_then(decaying_rate, SEARCHED_STEPS),
        acceleration=BEND,
    ),
)
"""SPRING and the joint game for few fresh samples in each of many steps."""

MODERATE_SAMPLES = (
    joint_method("damping 1e-6, acceleration", damping=1e-6, acceleration=BEND),
    joint_method(
        "damping 1e-4 of the loss, acceleration",
        damping=damping.LossDamping(1e-4),
        acceleration=BEND,
    ),
)
"""Settings of the joint game for fresh samples, about as many as parameters."""

SEARCHED_MOST = 200
"""Steps with a line search where it takes about a hundred until the error falls."""


late_rate = harmonic_rate(10, 10)
half_late_rate = harmonic_rate(5, 10)

MODERATE_STEPS = (
    joint_method(
        "damping 1e-6, momentum 0.968, acceleration, line search then rate 10 / (n + 10)",
        damping=1e-6,
        momentum=0.968,
        step=search_then(late_rate, SEARCHED_MOST),
        acceleration=BEND,
    ),
)
"""Setting of the joint game for many steps with about as many fresh samples as parameters."""

ALLEN_CAHN_STEPS = (
    joint_method(
        "damping 1e-4 of the loss, momentum 0.9, acceleration, line search then rate 5 / (n + 10)",
        damping=damping.LossDamping(1e-4),
        momentum=0.9,
        step=search_then(half_late_rate, 110),
        acceleration=BEND,
    ),
)
"""The same for the Allen-Cahn equation, which needs weak damping."""

TABLE = tuple(
    joint_method(
        f"damping {factor:g} of the loss, acceleration",
        damping=damping.LossDamping(factor),
        acceleration=BEND,
    )
    for factor in (1e-3, 1e-4)
)
"""Settings of the joint game for few data."""

IMAGE = (
    joint_method(
        "damping 0.1 of the loss, acceleration",
        damping=damping.LossDamping(0.1),
        acceleration=BEND,
    ),
    joint_method(
        "damping 0.1 of the loss, momentum 0.95, acceleration",
        damping=damping.LossDamping(0.1),
        momentum=0.95,
        acceleration=BEND,
    ),
)
"""Settings of the joint game for an image."""

MANY_SAMPLES = tuple(
    joint_method(
        "damping 1e-5 of the loss, acceleration",
        share,
        damping=damping.LossDamping(1e-5, 1e-11),
        acceleration=BEND,
    )
    for share in (0.5, 0.25)
)
"""Settings of the joint game for thousands of fresh samples: it draws a part of them."""


def ten_dimensions(title: str) -> ResidualProblem:
    """The Poisson equation in ten dimensions."""
    sizes = (10, 256, 256, 128, 128, 1)
    return poisson_problem(title, sizes, pair_products, 0.0, (100, 50), fresh=True)


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
        (*RIVALS, *SMALL_STEPS),
        SECONDS,
        long_steps=98,
    ),
    "heat": StudyCase(
        lambda: heat_problem((2, 64, 64, 48, 48, 1), (900, 120)),
        (*RIVALS, *SMALL_STEPS),
        SECONDS,
    ),
    "poisson5": StudyCase(
        lambda: poisson_problem(
            "Poisson equation, 5-D",
            (5, 64, 64, 48, 48, 1),
            cosine_sum,
            jnp.pi**2,
            (3000, 500),
            fresh=True,
        ),
        (
            *RIVALS,
            *(method(3e-3, 0.25) for method in (adam_method, soap_method)),
            lbfgs_method(20, 1),
            *MANY_SAMPLES,
        ),
        SECONDS,
    ),
    "poisson10": StudyCase(
        lambda: ten_dimensions("Poisson equation, 10-D"), (*RIVALS, *FEW_SAMPLES), SECONDS
    ),
    "poisson10_steps": StudyCase(
        lambda: ten_dimensions("Poisson equation, 10-D, 491 steps"),
        MANY_STEPS,
        seconds=0.0,
        least_steps=491,
        most_seeds=1,
    ),
    "burgers": StudyCase(
        lambda: burgers_problem((2, 20, 20, 20, 20, 1), (400, 400)),
        (*RIVALS, marquardt_method(2), *MODERATE_SAMPLES),
        SECONDS,
    ),
    "burgers_steps": StudyCase(
        lambda: burgers_problem(
            (2, 20, 20, 20, 20, 1), (400, 400), "Burgers' equation, 1000 steps"
        ),
        MODERATE_STEPS,
        seconds=0.0,
        least_steps=1000,
        most_seeds=1,
    ),
    "allen_cahn": StudyCase(
        lambda: allen_cahn_problem((2, 20, 20, 20, 20, 1), 1000),
        (*RIVALS, *MODERATE_SAMPLES),
        SECONDS,
    ),
    "allen_cahn_steps": StudyCase(
        lambda: allen_cahn_problem((2, 20, 20, 20, 20, 1), 1000, "Allen-Cahn equation, 300 steps"),
        ALLEN_CAHN_STEPS,
        seconds=0.0,
        least_steps=300,
        most_seeds=1,
    ),
    "image": StudyCase(
        lambda: image_problem((2, 64, 64, 1)),
        (*RIVALS, *IMAGE),
        SECONDS / 2,
    ),
    "diabetes": StudyCase(
        lambda: diabetes_problem((10, 32, 32, 1)),
        (*RIVALS, marquardt_method(1), *TABLE),
        SECONDS / 10,
    ),
}
"""The problems by name."""

QUICK_CASES: dict[str, StudyCase] = {
    "poisson2": StudyCase(
        lambda: poisson_problem(
            "Poisson equation, 2-D", (2, 16, 16, 1), sine_product, 2 * jnp.pi**2, (100, 40), False
        ),
        (RIVALS[1], RIVALS[4], RIVALS[6], SMALL_STEPS[0]),
        1.0,
    ),
}
"""A small version of one of them."""
