"""Sixteen training loops of examples, and what the implicit game changes in them.

python -m benchmarks.conversions [--rounds N] [--only TEXT]

Lines are those of `tests/losses/conversions`, written or changed, and those that only disappear.
A step is a pass of the loop, with its batch and its metrics, game on relative to the original;
compilation is tracing and compiling the training step. The models are tiny, in float64, so that
fixed costs dominate: see benchmarks/implicit.py for models of usual sizes.
"""

import argparse
import collections
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import gtddp_jax as gt
from gtddp_lab.studies.step_timing import median_ratio, time_interleaved
from tests.losses.conversions.all_conversions import CONVERSIONS
from tests.losses.conversions.conversion import Conversion

STEP_FUNCTIONS = ("train_step", "make_step", "update", "step")
"""How the loops call their training step."""


class CompileClock:
    """Seconds that JAX spends on tracing, lowering and compiling training steps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, seconds: float, **details: Any) -> None:
        name = str(details.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
        if "/compile/" in event and name in STEP_FUNCTIONS:
            self.seconds += seconds

    def first_step(self, steps: Iterator[Any]) -> float:
        """The seconds of the first step."""
        self.seconds = 0.0
        next(steps)
        return self.seconds


def measure(conversion: Conversion, clock: CompileClock, rounds: int) -> tuple[float, float]:
    """The ratios of step and compilation."""
    loops = {"original": conversion.original(), "game": conversion.converted(gt.implicit)}
    compilation = {name: clock.first_step(loop) for name, loop in loops.items()}

    def step_of(loop: Iterator[Any]) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(jax.tree.leaves(next(loop)))

    seconds = time_interleaved({name: step_of(loop) for name, loop in loops.items()}, rounds)
    return (
        median_ratio(seconds["game"], seconds["original"]),
        compilation["game"] / compilation["original"],
    )


def main() -> None:
    """Print one line per example, then geometric means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--only", default="", help="examples whose name contains this text")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    clock, ratios = CompileClock(), collections.defaultdict[str, list[float]](list)
    print("| example | lines written or changed | deleted | step | compilation |")
    print("|---|---|---|---|---|")
    for name, conversion in CONVERSIONS.items():
        if options.only in name:
            step, compilation = measure(conversion, clock, options.rounds)
            ratios["step"].append(step)
            ratios["compilation"].append(compilation)
            written, deleted = conversion.line_counts()
            print(
                f"| {name} | {written} | {deleted} | {step:.2f} | {compilation:.1f} |", flush=True
            )
    means = [float(np.exp(np.mean(np.log(values)))) for values in ratios.values()]
    print(f"| geometric mean | | | {means[0]:.2f} | {means[1]:.1f} |")


if __name__ == "__main__":
    main()
