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
from nets import CASES, Case, batch_of

import gtddp_jax as gt
from gtddp_jax.evidence.timing import compiled, game_step, interleaved, ratio
from gtddp_jax.players import parameter_count, rule

BASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], float]] = {
    "sgd": (optax.sgd, gt.sgd, 1e-2),
    "rmsprop": (optax.rmsprop, gt.rmsprop, 1e-3),
    "adam": (optax.adam, gt.adam, 1e-3),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "off": {"feedback": False},
    "linear": {"rollout": "linear"},
    "nonlinear": {"rollout": "nonlinear"},
}
LOSS = optax.softmax_cross_entropy_with_integer_labels


def plain_step(net: gt.Network, tx: Any) -> Callable[..., Any]:
    """A plain optax training step."""

    def step(params: Any, state: Any, batch: Any) -> Any:
        def mean(params: Any) -> jax.Array:
            return LOSS(net.apply(params, batch[0]), batch[1]).mean()

        value, gradient = jax.value_and_grad(mean)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def rules(case: Case, params: Any) -> str:
    """Which cost rule the players get, as counts."""
    x = jax.ShapeDtypeStruct(case.shape, np.float32)
    states, chosen = (x,), []
    for stage in case.net.stages:
        run = jax.eval_shape(stage.run, params, states)
        chosen += [
            rule(
                act.module,
                run[act.source],
                run[act.target],
                parameter_count(params[act.name]),
                feedback=True,
            )
            for act in stage.acts
        ]
        states = tuple(run[v] for v in stage.outputs)
    return ", ".join(f"{n} {name}" for name, n in collections.Counter(chosen).items())


def measure(case: Case, base: str, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Milliseconds, time ratio and memory ratio to the plain step, by variant."""
    plain, ours, rate = BASES[base]
    batch = batch_of(case)
    params = case.net.init(jax.random.key(0), batch[0][:1])
    txs = {"base": plain(rate)} | {
        name: ours(case.net, LOSS, rate, **options) for name, options in VARIANTS.items()
    }
    steps, memory = {}, {}
    for name, tx in txs.items():
        step = plain_step(case.net, tx) if name == "base" else game_step(tx)
        steps[name], memory[name] = compiled(step, params, tx.init(params), batch)
    seconds = interleaved(steps, rounds)
    return {
        name: (
            float(np.median(seconds[name])) * 1e3,
            ratio(seconds[name], seconds["base"]),
            memory[name] / memory["base"],
        )
        for name in txs
    }


def main() -> None:
    """Prints one line a network and base method, then geometric means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default="", help="networks whose name contains this text")
    parser.add_argument("--base", choices=tuple(BASES), default=None)
    options = parser.parse_args()
    every: dict[str, list[float]] = collections.defaultdict(list)
    print("network | base | plain ms | off | linear | nonlinear | memory linear/nonlinear | rules")
    for name, make in CASES.items():
        if options.only not in name:
            continue
        case = make()
        params = case.net.init(jax.random.key(0), batch_of(case)[0][:1])
        for base in [options.base] if options.base else BASES:
            figures = measure(case, base, options.rounds)
            for variant in VARIANTS:
                every[variant].append(figures[variant][1])
            times = " | ".join(f"{figures[v][1]:.2f}x" for v in VARIANTS)
            memory = f"{figures['linear'][2]:.2f}x / {figures['nonlinear'][2]:.2f}x"
            print(
                f"{name} | {base} | {figures['base'][0]:.2f} | {times} | {memory} | "
                f"{rules(case, params)}",
                flush=True,
            )
    for variant, ratios in every.items():
        print(f"geometric mean, {variant}: {np.exp(np.mean(np.log(ratios))):.2f}x")


if __name__ == "__main__":
    main()
