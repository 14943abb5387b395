"""Interleaved timing of jitted steps: ratios from one run, medians over rounds."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax


def game_step(tx: Any) -> Callable[..., Any]:
    """A step of a game, sequential or implicit: it takes the batch itself."""

    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(None, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    return step


def compiled(step: Callable[..., Any], *arguments: Any) -> tuple[Callable[[], Any], float]:
    """A step bound to its arguments, and its peak memory in MiB as the compiler plans it.

    Raises:
        RuntimeError: the backend reports no memory plan.
    """
    program = jax.jit(step).lower(*arguments).compile()
    plan = program.memory_analysis()
    if plan is None:
        raise RuntimeError(f"The backend {jax.default_backend()!r} reports no memory plan.")
    peak = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    return lambda: jax.block_until_ready(program(*arguments)), peak / 2**20


def interleaved(
    steps: Mapping[str, Callable[[], Any]], rounds: int, least: float = 0.0
) -> dict[str, np.ndarray]:
    """Seconds of each step in each round; all steps have their turn in every round.

    Args:
        steps: what is timed, by name.
        rounds: how many turns each has.
        least: seconds that a turn takes at least; a step that is shorter runs so many times in a
            row (what was in caches belongs to the step before it), and a call's mean is returned.
    """
    turns = {}
    for name, step in steps.items():
        step()
        start = time.perf_counter()
        step()
        turns[name] = max(1, math.ceil(least / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(turns[name]):
                step()
            seconds[name].append((time.perf_counter() - start) / turns[name])
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(of: np.ndarray, to: np.ndarray) -> float:
    """The median over rounds of the ratio within a round."""
    return float(np.median(of / to))
