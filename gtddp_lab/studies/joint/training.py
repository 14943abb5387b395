"""One run: a method on a problem for some seconds, with its error over time."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_lab.studies.joint.methods import StudiedMethod
from gtddp_lab.studies.joint.problem import ResidualProblem
from gtddp_lab.studies.joint.tanh_network import TanhNetwork

TRACE_SPACING = 1.1
"""Ratio of the times at which the error is measured."""

MARKED_STEPS = (20, 98, 190, 491)
"""Steps at which published errors are known; the error is measured there too."""


TRIAL_CALLS = 5
"""Calls that tell how long a step takes."""


class Moment(NamedTuple):
    """What is known at one time of a run.

    Attributes:
        step: number of steps so far.
        seconds: processor time of these steps, all threads together, without compilation and
            without measuring the error. Unlike wall time it hardly depends on what else runs.
        error: relative L2 error.
        loss: the objective on the samples of the last step.
    """

    step: int
    seconds: float
    error: float
    loss: float


class ResidualRun(NamedTuple):
    """A finished run.

    Attributes:
        moments: in order of time; the last one is the end.
        prediction: of the network at the test points [n].
    """

    moments: list[Moment]
    prediction: np.ndarray


def train_on_residuals(
    problem: ResidualProblem,
    method: StudiedMethod,
    seed: int,
    seconds: float,
    least_steps: int = 0,
) -> ResidualRun:
    """Run a method until its steps have taken some seconds of processor time.

    Args:
        problem: the problem.
        method: the method with its setting.
        seed: of the initial parameters and the samples.
        seconds: how long.
        least_steps: the run goes on until there were as many.
    """
    key = jax.random.key(seed)
    params = problem.init(jax.random.fold_in(key, 0))
    factor = max(1, method.batch_factor) if problem.fresh else 1
    fixed = problem.draw(jax.random.fold_in(key, 1), factor)
    points, values = map(jnp.asarray, problem.answer())
    measure = jax.jit(
        lambda params: (
            problem.relative_error(params, points, values),
            problem.objective(params, fixed),
        )
    )

    def initial_state(params: TanhNetwork) -> Any:
        return method.make(problem, jnp.int32(1))[0](params)

    # Seeds differ in arguments only, so that they share a compiled program.
    def call(carry: Any, first: jax.Array, steps: jax.Array, key: jax.Array, fixed: Any) -> Any:
        _, advance = method.make(problem, steps)

        def one_step(carry: Any, number: jax.Array) -> Any:
            samples = fixed
            if problem.fresh and not method.batch_factor:
                fresh_key = jax.random.fold_in(key, number + 2)
                samples = problem.draw(fresh_key, method.sample_share)
            params, state = carry
            return advance(params, state, samples), None

        numbers = first + jnp.arange(method.steps_per_call)
        return jax.lax.scan(one_step, carry, numbers)[0]

    carry = (params, jax.jit(initial_state)(params))
    steps = jnp.int32(10**6)
    program = jax.jit(call).lower(carry, jnp.int32(0), steps, key, fixed).compile()
    jax.block_until_ready(program(carry, jnp.int32(0), steps, key, fixed))
    if method.scheduled:
        # How many steps there will be is known only once their time is.
        start = time.process_time()
        trial = carry
        for number in range(TRIAL_CALLS):
            trial = program(trial, jnp.int32(number), steps, key, fixed)
        jax.block_until_ready(trial)
        per_call = (time.process_time() - start) / TRIAL_CALLS
        expected = seconds / per_call * method.steps_per_call
        steps = jnp.int32(max(1.0, expected, least_steps))
    spent, step, next_look, moments = 0.0, 0, 0.0, [Moment(0, 0.0, *map(float, measure(params)))]
    while spent < seconds or step < least_steps:
        start = time.process_time()
        carry = jax.block_until_ready(program(carry, jnp.int32(step), steps, key, fixed))
        spent += time.process_time() - start
        step += method.steps_per_call
        finished = spent >= seconds and step >= least_steps
        if spent >= next_look or finished or step in MARKED_STEPS:
            moments.append(Moment(step, spent, *map(float, measure(carry[0]))))
            next_look = max(spent * TRACE_SPACING, seconds / 500)
    return ResidualRun(moments, np.asarray(problem.predict(carry[0], points)))
