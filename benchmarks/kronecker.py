"""KFAC and EKFAC against optax SGD and Adam, and against kfac-jax where it is installed.

    python benchmarks/kronecker.py [--rounds N] [--only TEXT] [--period N] [--processor-time]
        [--out FILE.json]

All methods take whole periods of steps in turns, so that the times include refreshes; parameters
and states are donated, as by `gt.make_update`. The last column compares the steps of one period:
the most expensive one with the median, each step's time being its median over the rounds. With
`--processor-time` it is the time of the process instead of the clock's, for a machine with other
work; give it one thread then (OPENBLAS_NUM_THREADS=1 XLA_FLAGS=--xla_cpu_multi_thread_eigen=false).
For kfac-jax
(its release does not run on current JAX, its repository does):

    pip install git+https://github.com/google-deepmind/kfac-jax
"""

import argparse
import importlib.util
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from nets import Case, four_blocks_case, one_block_case, random_batch
from typing_extensions import override

import gtddp_jax as gt
from gtddp_lab.networks import flatten

LOSS = optax.softmax_cross_entropy_with_integer_labels
RATE, DAMPING = 1e-3, 1e-2
FACTORS_EVERY = 10
"""Steps between updates of the factors, but at most one period."""
WIDEST = 8192
"""kfac-jax inverts full factors: beyond this width one inverse takes minutes."""


def wide_mlp(batch: int) -> Case:
    """A perceptron on 56x56 images: 3136 inputs."""
    layers = [nn.Dense(256), nn.relu, nn.Dense(256), nn.relu, nn.Dense(10)]
    return Case(gt.Network(layers), (batch, 3136))


def wide_head(batch: int) -> Case:
    """Two strided convolutions and a dense layer on 7 x 7 x 64 = 3136 features."""
    convs = [nn.Conv(16, (3, 3), 2), nn.relu, nn.Conv(64, (3, 3), 2), nn.relu]
    return Case(
        gt.Network([*convs, flatten, nn.Dense(128), nn.relu, nn.Dense(10)]), (batch, 28, 28, 1)
    )


CASES: dict[str, Callable[[], Case]] = {
    "digits 8x8x16": lambda: one_block_case(16, 8, 1, 128),
    "1 block 28x28x16": lambda: one_block_case(16, 28, 1, 128),
    "mlp, 3136 inputs": lambda: wide_mlp(128),
    "convs, dense 3136-128": lambda: wide_head(128),
    "4 blocks 32x32": lambda: four_blocks_case(128),
}


class Runner:
    """A method in the middle of training."""

    compile_seconds = 0.0
    megabytes = 0.0

    def run(self, steps: int) -> None:
        """Takes this number of further steps."""
        raise NotImplementedError


class Optax(Runner):
    """A jitted step `(params, state, batch) -> (params, state)`."""

    def __init__(self, step: Callable[..., Any], params: Any, state: Any, batch: Any) -> None:
        start = time.perf_counter()
        params, state = jax.tree.map(jnp.copy, (params, state))  # its step donates them
        jitted = jax.jit(step, donate_argnums=(0, 1))
        self._step, self._batch = jitted.lower(params, state, batch).compile(), batch
        self.compile_seconds = time.perf_counter() - start
        plan = self._step.memory_analysis()
        assert plan is not None
        peak = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
        self.megabytes = (peak - plan.alias_size_in_bytes) / 2**20
        self._now = params, state

    @override
    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._now = self._step(*self._now, self._batch)
        jax.block_until_ready(self._now)


def plain(case: Case, params: Any, batch: Any, tx: Any) -> Runner:
    """An optax optimizer."""

    def step(params: Any, state: Any, batch: Any) -> Any:
        def mean(params: Any) -> jax.Array:
            return LOSS(case.net.apply(params, batch[0]), batch[1]).mean()

        updates, state = tx.update(jax.grad(mean)(params), state, params)
        return optax.apply_updates(params, updates), state

    return Optax(step, params, tx.init(params), batch)


def ours(case: Case, params: Any, batch: Any, make: Any, period: int, feedback: bool) -> Runner:
    """`gt.kfac` or `gt.ekfac`."""
    every = {"refresh_every": period, "factors_every": min(FACTORS_EVERY, period)}
    tx = make(
        case.net, LOSS, RATE, DAMPING, equilibrium="feedback" if feedback else "open_loop", **every
    )

    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(None, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    return Optax(step, params, tx.init(params), batch)


class KfacJax(Runner):
    """kfac-jax with the same periods as this library."""

    def __init__(self, case: Case, params: Any, batch: Any, period: int, factors: int) -> None:
        import kfac_jax

        def loss(params: Any, batch: Any) -> jax.Array:
            logits = case.net.apply(params, batch[0])
            kfac_jax.register_softmax_cross_entropy_loss(logits, batch[1])
            return LOSS(logits, batch[1]).mean()

        self._optimizer = kfac_jax.Optimizer(
            jax.value_and_grad(loss),
            l2_reg=0.0,
            learning_rate_schedule=lambda step: jnp.asarray(RATE),
            momentum_schedule=lambda step: jnp.asarray(0.0),
            damping_schedule=lambda step: jnp.asarray(DAMPING),
            curvature_update_period=factors,
            inverse_update_period=period,
            num_burnin_steps=0,
            estimation_mode="fisher_empirical",
        )
        key = jax.random.key(0)
        params = jax.tree.map(jnp.copy, params)  # its step donates them
        self._batch, self._key, self._count = batch, key, 0
        self._now = params, self._optimizer.init(params, key, batch)
        start = time.perf_counter()
        self.run(1)
        self.compile_seconds = time.perf_counter() - start

    @override
    def run(self, steps: int) -> None:
        for _ in range(steps):
            params, state, _ = self._optimizer.step(
                *self._now, self._key, batch=self._batch, global_step_int=self._count
            )
            self._now, self._count = (params, state), self._count + 1
        jax.block_until_ready(self._now[0])


def runners(case: Case, period: int) -> dict[str, Runner]:
    """All methods on one network."""
    batch = random_batch(case)
    params = case.net.init(jax.random.key(0), batch[0][:1])
    found: dict[str, Runner] = {
        "sgd": plain(case, params, batch, optax.sgd(RATE)),
        "adam": plain(case, params, batch, optax.adam(RATE)),
    }
    for name, make in (("kfac", gt.kfac), ("ekfac", gt.ekfac)):
        for feedback in (False, True):
            label = f"gt-ddp-{name}" if feedback else name
            found[label] = ours(case, params, batch, make, period, feedback)
    widest = max(leaf.shape[0] for leaf in jax.tree.leaves(params) if leaf.ndim == 2)
    if importlib.util.find_spec("kfac_jax") is not None and widest <= WIDEST:
        found["kfac-jax"] = KfacJax(case, params, batch, period, min(FACTORS_EVERY, period))
    return found


def measure(
    case: Case, period: int, rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    """Milliseconds per step (amortized), ratio to SGD, compile time and memory of each method."""
    methods = runners(case, period)
    for runner in methods.values():
        runner.run(period)
    times: dict[str, list[list[float]]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, runner in methods.items():
            seconds = []
            for _ in range(period):
                start = clock()
                runner.run(1)
                seconds.append(clock() - start)
            times[name].append(seconds)
    base = np.mean(times["sgd"], axis=1)
    found = {}
    for name, values in times.items():
        amortized, by_step = np.mean(values, axis=1), np.median(values, axis=0)
        found[name] = {
            "milliseconds": 1e3 * float(np.median(amortized)),
            "ratio": float(np.median(amortized / base)),
            "compile_seconds": methods[name].compile_seconds,
            "megabytes": methods[name].megabytes,
            "most_expensive": float(by_step.max() / np.median(by_step)),
        }
    return found


def main() -> None:
    """Prints a Markdown table for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--period", type=int, default=20)
    parser.add_argument("--only", default="")
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=None)
    options = parser.parse_args()
    clock = time.process_time if options.processor_time else time.perf_counter
    results = {}
    for name, make in CASES.items():
        if options.only not in name:
            continue
        results[name] = measure(make(), options.period, options.rounds, clock)
        print(f"\n{name}, B = 128, refresh every {options.period}\n")
        print(
            "| method | ms per step | ratio to SGD | compile, s | memory, MiB | "
            "most expensive step / median |\n|---|---|---|---|---|---|"
        )
        for method, row in results[name].items():
            memory = f"{row['megabytes']:.0f}" if row["megabytes"] else "–"
            print(
                f"| {method} | {row['milliseconds']:.1f} | {row['ratio']:.2f} | "
                f"{row['compile_seconds']:.1f} | {memory} | {row['most_expensive']:.2f} |",
                flush=True,
            )
        if options.out is not None:
            options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
