"""Cost of the sequential game on existing Flax models, relative to plain optax.

python benchmarks/flax_models.py [--rounds N] [--only TEXT]

Step time, memory and start are ratios to a plain `value_and_grad` step with optax.adam. The start
is the processor time of tracing and compiling. Steps are timed in turns, so that other work on the
machine affects all of them alike.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from models import GPT, ResNet18, ViT

import gtddp_jax as gt
from gtddp_lab.studies.step_timing import (
    batch_update_step,
    compile_step,
    median_ratio,
    time_interleaved,
)

RATE = 1e-3
VARIANTS: dict[str, dict[str, Any]] = {
    "off": {"equilibrium": "open_loop"},
    "exact_loss": {},
    "projected": {"terminal": gt.terminal.ProjectedHessian()},
}
"""Feedback off, the default terminal model, and the one that does not evaluate the loss again."""


class Case(NamedTuple):
    """A model and a batch."""

    model: nn.Module
    inputs: np.ndarray
    targets: np.ndarray


def _image_batch(batch: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    images = draw.normal(size=(batch, 32, 32, 3)).astype("float32")
    return images, draw.integers(0, 10, size=batch)


def _text_batch(batch: int, length: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    text = draw.integers(0, vocabulary, size=(batch, length + 1))
    return text[:, :-1], text[:, 1:]


CASES: dict[str, Callable[[], Case]] = {
    "ResNet-18, 32x32, B = 8": lambda: Case(ResNet18(), *_image_batch(8)),
    "ViT, 6 x 128, 64 tokens, B = 16": lambda: Case(ViT(), *_image_batch(16)),
    "GPT, 6 x 128, 64 tokens, V = 8192, B = 8": lambda: Case(GPT(), *_text_batch(8, 64, 8192)),
}


def mean_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The cross-entropy of each sample, [B], averaged over its positions."""
    entropies = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    return entropies.reshape(entropies.shape[0], -1).mean(1)


def plain_step(model: nn.Module, tx: Any) -> Callable[..., Any]:
    """A plain optax training step that keeps running statistics."""

    def step(params: Any, state: Any, stats: Any, batch: Any) -> Any:
        def mean_loss(params: Any) -> Any:
            outputs, after = model.apply(
                {"params": params, **stats}, batch[0], mutable=["batch_stats"]
            )
            return mean_cross_entropy(outputs, batch[1]).mean(), after

        (value, after), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, after, value

    return step


def measure_case(case: Case, rounds: int) -> str:
    """The figures of one model, separated by bars."""
    batch = (jnp.asarray(case.inputs), jnp.asarray(case.targets))
    variables = jax.jit(case.model.init)(jax.random.key(0), batch[0])
    params = variables["params"]
    stats = {name: tree for name, tree in variables.items() if name != "params"}
    base = optax.adam(RATE)
    steps, memory, start = {}, {}, {}
    clock = time.process_time()
    step = plain_step(case.model, base)
    steps["plain"], memory["plain"] = compile_step(step, params, base.init(params), stats, batch)
    start["plain"] = time.process_time() - clock
    for name, options in VARIANTS.items():
        clock = time.process_time()
        net = gt.from_flax(case.model, batch[0])
        tx = gt.adam(net, mean_cross_entropy, RATE, batch_stats=stats.get("batch_stats"), **options)
        steps[name], memory[name] = compile_step(
            batch_update_step(tx), params, tx.init(params), batch
        )
        start[name] = time.process_time() - clock
    seconds = time_interleaved(steps, rounds)
    cells = [f"{np.median(seconds['plain']) * 1e3:.0f} ms", f"{start['plain']:.1f} s"]
    for name in VARIANTS:
        cells += [
            f"{median_ratio(seconds[name], seconds['plain']):.2f}x",
            f"{memory[name] / memory['plain']:.2f}x",
            f"{start[name] / start['plain']:.2f}x",
        ]
    return " | ".join(cells)


def main() -> None:
    """Prints one line per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="models whose name contains this text")
    options = parser.parse_args()
    columns = "step, memory, start"
    titles = " | ".join(f"{name}: {columns}" for name in VARIANTS)
    print(f"model | plain step | plain start | {titles}")
    for name, make in CASES.items():
        if options.only in name:
            print(f"{name} | {measure_case(make(), options.rounds)}", flush=True)


if __name__ == "__main__":
    main()
