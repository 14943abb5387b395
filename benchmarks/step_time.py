"""Step time and memory of the sequential game against plain optax, interleaved.

python benchmarks/step_time.py [--rounds N] [--only TEXT] [--base NAME]
"""

import argparse
import collections
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from nets import CASES, Case, random_batch

import gtddp_jax as gt
from gtddp_jax.network import stage_facts
from gtddp_lab.studies.step_timing import (
    batch_update_step,
    compile_step,
    median_ratio,
    time_interleaved,
)

BASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], float]] = {
    "sgd": (optax.sgd, gt.sgd, 1e-2),
    "rmsprop": (optax.rmsprop, gt.rmsprop, 1e-3),
    "adam": (optax.adam, gt.adam, 1e-3),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "off": {"equilibrium": "open_loop"},
    "linear": {"rollout": "linear"},
    "nonlinear": {"rollout": "nonlinear"},
}
LOSS = optax.softmax_cross_entropy_with_integer_labels


def plain_step(net: gt.Network, tx: Any) -> Callable[..., Any]:
    """Make a plain optax training step."""

    def step(params: Any, state: Any, batch: Any) -> Any:
        def mean_loss(params: Any) -> jax.Array:
            return LOSS(net.apply(params, batch[0]), batch[1]).mean()

        value, gradient = jax.value_and_grad(mean_loss)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def cost_rules(case: Case, params: Any) -> str:
    """Count the players by the cost rule of their per-sample gradients."""
    inputs = jax.ShapeDtypeStruct(case.shape, np.float32)
    stages = stage_facts(case.net, params, inputs)
    counts = collections.Counter(player.rule for stage in stages for player in stage.players)
    return ", ".join(f"{count} {rule}" for rule, count in counts.items())


def measure_case(case: Case, base: str, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Measure milliseconds, time ratio and memory ratio to the plain step, by variant."""
    plain, game, rate = BASES[base]
    batch = random_batch(case)
    params = case.net.init(jax.random.key(0), batch[0][:1])
    optimizers = {"base": plain(rate)} | {
        name: game(case.net, LOSS, rate, **options) for name, options in VARIANTS.items()
    }
    steps, memory = {}, {}
    for name, tx in optimizers.items():
        step = plain_step(case.net, tx) if name == "base" else batch_update_step(tx)
        steps[name], memory[name] = compile_step(step, params, tx.init(params), batch)
    seconds = time_interleaved(steps, rounds)
    return {
        name: (
            float(np.median(seconds[name])) * 1e3,
            median_ratio(seconds[name], seconds["base"]),
            memory[name] / memory["base"],
        )
        for name in optimizers
    }


def main() -> None:
    """Print one line per network and base, then geometric means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default="", help="networks whose name contains this text")
    parser.add_argument("--base", choices=tuple(BASES), default=None)
    options = parser.parse_args()
    all_ratios: dict[str, list[float]] = collections.defaultdict(list)
    print("network | base | plain ms | off | linear | nonlinear | memory linear/nonlinear | rules")
    for name, make in CASES.items():
        if options.only not in name:
            continue
        case = make()
        params = case.net.init(jax.random.key(0), random_batch(case)[0][:1])
        for base in [options.base] if options.base else BASES:
            figures = measure_case(case, base, options.rounds)
            for variant in VARIANTS:
                all_ratios[variant].append(figures[variant][1])
            times = " | ".join(f"{figures[variant][1]:.2f}x" for variant in VARIANTS)
            memory = f"{figures['linear'][2]:.2f}x / {figures['nonlinear'][2]:.2f}x"
            print(
                f"{name} | {base} | {figures['base'][0]:.2f} | {times} | {memory} | "
                f"{cost_rules(case, params)}",
                flush=True,
            )
    for variant, ratios in all_ratios.items():
        print(f"geometric mean, {variant}: {np.exp(np.mean(np.log(ratios))):.2f}x")


if __name__ == "__main__":
    main()
