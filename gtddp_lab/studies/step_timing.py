"""Interleaved timing of compiled steps: ratios within one run, medians over rounds."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax


def batch_update_step(tx: optax.GradientTransformationExtraArgs) -> Callable[..., Any]:
    """Make the step of a game, sequential or implicit, which takes the batch itself."""
    no_running_cost: Any = None

    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(no_running_cost, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    return step


def compile_step(step: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], float]:
    """Compile a step for its arguments.

    Returns:
        The step as a function without arguments, and its peak memory in MiB as planned by the
        compiler.

    Raises:
        RuntimeError: the backend reports no memory plan.
    """
    program = jax.jit(step).lower(*arguments).compile()
    plan = program.memory_analysis()
    if plan is None:
        raise RuntimeError(f"The backend {jax.default_backend()!r} reports no memory plan.")
    peak = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    return lambda: jax.block_until_ready(program(*arguments)), peak / 2**20


def time_interleaved(
    steps: Mapping[str, Callable[[], Any]], rounds: int, least_seconds: float = 0.0
) -> dict[str, np.ndarray]:
    """Measure the seconds of each step in each round; every round runs all steps in turn.

    Args:
        steps: the steps by name.
        rounds: number of rounds.
        least_seconds: least time of a step's turn. A shorter step runs several times in a row, so
            that the caches hold its own data, and its mean time is returned.
    """
    repetitions = {}
    for name, step in steps.items():
        step()  # warms up
        start = time.perf_counter()
        step()
        repetitions[name] = max(1, math.ceil(least_seconds / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(repetitions[name]):
                step()
            seconds[name].append((time.perf_counter() - start) / repetitions[name])
    return {name: np.array(values) for name, values in seconds.items()}


def median_ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
    """Return the median over rounds of the ratio within a round."""
    return float(np.median(numerator / denominator))
