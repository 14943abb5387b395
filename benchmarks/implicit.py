"""Cost of the implicit game's steps against its plain optax base, interleaved.

python benchmarks/implicit.py [--rounds N] [--only TEXT] [--base NAME] [--columns NAME ...]

Steps per round of a scan are 50 for networks whose step takes less than a millisecond, as in the
studies, and one otherwise. FLOPs and bytes are the compiler's count, the ratio that a device
without fixed costs would see. The first step is its tracing and compiling.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from models import (
    GPT,
    VAE,
    BiLSTM,
    GraphNetwork,
    Perceptron,
    ResidualConvolutions,
    ResNet18,
    ScannedGPT,
    ViT,
)

import gtddp_jax as gt
from gtddp_lab.studies.step_timing import median_ratio, time_interleaved

LOSS = optax.softmax_cross_entropy_with_integer_labels
BASES = {
    "sgd": lambda: optax.sgd(1e-3, 0.9, nesterov=True),
    "adam": lambda: optax.adam(1e-4),
}
COLUMNS: dict[str, Any] = {
    "game off": {"strength": 0.0},
    "sketch": {},
    "full": {"weighting": "full"},
}
DRAW = np.random.default_rng(0)


class Case(NamedTuple):
    """A model's losses, its parameters and a batch.

    Attributes:
        losses: `losses(params, batch) -> gt.Losses`.
        params: its parameters.
        batch: a pytree.
        scanned: steps in one compiled call.
    """

    losses: Callable[..., Any]
    params: Any
    batch: Any
    scanned: int = 1


def classifier(model: Any, inputs: Any, scanned: int = 1) -> Case:
    """A classifier with random labels and, where it has any, running statistics."""
    variables = jax.jit(model.init)(jax.random.key(0), inputs)
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    labels = DRAW.integers(0, 10, len(jax.tree.leaves(inputs)[0]))

    def losses(params: Any, batch: Any) -> gt.Losses:
        x, y = batch
        outputs, after = model.apply({"params": params, **rest}, x, mutable=list(rest))
        return gt.Losses(outputs, lambda outputs: LOSS(outputs, y), aux=after)

    return Case(losses, variables["params"], (inputs, jnp.asarray(labels)), scanned)


def language_model(model: Any, batch: int, length: int) -> Case:
    """A language model with one loss per sequence."""
    text = tokens(batch, length + 1, model.vocabulary)

    def losses(params: Any, text: Any) -> gt.Losses:
        outputs = model.apply(params, text[:, :-1])
        return gt.Losses(outputs, lambda outputs: LOSS(outputs, text[:, 1:]).mean(-1))

    return Case(losses, jax.jit(model.init)(jax.random.key(0), text[:1, :-1]), text)


def autoencoder(batch: int) -> Case:
    """A variational autoencoder with one negative evidence bound per image."""
    model = VAE()
    images = jnp.asarray(DRAW.random((batch, 784)) < 0.5, jnp.float32)
    noise = normal(batch, model.latents)

    def losses(params: Any, batch: Any) -> gt.Losses:
        x, noise = batch

        def bounds(outputs: Any) -> jax.Array:
            logits, mean, logvar = outputs
            divergence = -0.5 * jnp.sum(1 + logvar - mean**2 - jnp.exp(logvar), -1)
            return optax.sigmoid_binary_cross_entropy(logits, x).sum(-1) + divergence

        return gt.Losses(model.apply(params, x, noise), bounds)

    return Case(losses, model.init(jax.random.key(0), images, noise), (images, noise))


def graphs(batch: int, nodes: int = 32) -> Any:
    """Random graphs: normalized adjacencies and node features."""
    edges = DRAW.random((batch, nodes, nodes)) < 0.2
    adjacency = edges / np.maximum(edges.sum(-1, keepdims=True), 1)
    return jnp.asarray(adjacency, jnp.float32), normal(batch, nodes, 16)


def normal(*shape: int) -> jax.Array:
    """Standard normal numbers."""
    return jnp.asarray(DRAW.normal(size=shape), jnp.float32)


def tokens(batch: int, length: int, vocabulary: int) -> jax.Array:
    """Random tokens."""
    return jnp.asarray(DRAW.integers(0, vocabulary, (batch, length)))


CASES: dict[str, Callable[[], Case]] = {
    "MLP 64-64-64, B=32": lambda: classifier(Perceptron((64, 64)), normal(32, 64), scanned=50),
    "MLP 784-512x3, B=8": lambda: classifier(Perceptron((512,) * 3), normal(8, 784)),
    "MLP 784-512x3, B=128": lambda: classifier(Perceptron((512,) * 3), normal(128, 784)),
    "MLP 512-1024x4, B=256": lambda: classifier(Perceptron((1024,) * 4), normal(256, 512)),
    "6 blocks 14x14x32, B=128": lambda: classifier(
        ResidualConvolutions(32, 6), normal(128, 14, 14, 1)
    ),
    "8 blocks pooled 14x14x16, B=32": lambda: classifier(
        ResidualConvolutions(16, 8, stride=2), normal(32, 28, 28, 1)
    ),
    "16 blocks pooled 14x14x16, B=32": lambda: classifier(
        ResidualConvolutions(16, 16, stride=2), normal(32, 28, 28, 1)
    ),
    "ResNet-18 BatchNorm, B=16": lambda: classifier(ResNet18(), normal(16, 32, 32, 3)),
    "ResNet-18 GroupNorm, B=16": lambda: classifier(ResNet18(32), normal(16, 32, 32, 3)),
    "ViT 6x128, B=16": lambda: classifier(ViT(), normal(16, 32, 32, 3)),
    "GPT 4x128, V=256, 16x64": lambda: language_model(GPT(256, layers=4), 16, 64),
    "GPT 4x128 in nn.scan, V=256, 16x64": lambda: language_model(ScannedGPT(), 16, 64),
    "GPT 6x128, V=8192, 8x64": lambda: language_model(GPT(8192), 8, 64),
    "BiLSTM 128, 32x32": lambda: classifier(BiLSTM(), tokens(32, 32, 2000)),
    "GNN 4x128, B=64": lambda: classifier(GraphNetwork(), graphs(64)),
    "VAE 784-500-20, B=128": lambda: autoencoder(128),
}


def plain_step(case: Case, tx: Any) -> Callable[..., Any]:
    """A plain optax training step on the same losses."""

    def step(params: Any, state: Any, batch: Any) -> Any:
        _, gradient = gt.value_and_grad(case.losses)(params, batch)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step


def game_step(case: Case, tx: Any) -> Callable[..., Any]:
    """A step of the implicit game."""
    no_gradient: Any = None

    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(
            no_gradient, state, params, losses=lambda params: case.losses(params, batch)
        )
        return optax.apply_updates(params, updates), state

    return step


class Compiled(NamedTuple):
    """A compiled step as a function without arguments, and what the compiler says of it."""

    run: Callable[[], Any]
    compile_seconds: float
    flops: float
    accessed: float
    temporary: int


def compiled(step: Callable[..., Any], case: Case, state: Any) -> Compiled:
    """Compile a step that updates its buffers in place, as training loops do."""

    def steps(params: Any, state: Any, batch: Any) -> Any:
        if case.scanned == 1:
            return step(params, state, batch)
        return jax.lax.scan(
            lambda carry, _: (step(*carry, batch), None),
            (params, state),
            None,
            length=case.scanned,
        )[0]

    clock = time.process_time()
    lowered = jax.jit(steps, donate_argnums=(0, 1)).lower(case.params, state, case.batch)
    program = lowered.compile()
    clock = time.process_time() - clock
    cost: Any = program.cost_analysis()
    plan: Any = program.memory_analysis()
    kept = jax.tree.map(jnp.copy, (case.params, state))

    def run() -> None:
        nonlocal kept
        kept = jax.block_until_ready(program(*kept, case.batch))

    flops, accessed = cost["flops"], cost["bytes accessed"]
    total = plan.temp_size_in_bytes + plan.argument_size_in_bytes
    return Compiled(run, clock, flops, accessed, total)


class StepRatios(NamedTuple):
    """A step of the game in multiples of the plain one; see the table in docs/performance.md."""

    time: float
    flops: float
    bytes: float
    memory: float
    first_step: float

    @property
    def text(self) -> str:
        """The ratios on one line."""
        return "  ".join(f"{name} {value:5.2f}" for name, value in self._asdict().items())


class Measured(NamedTuple):
    """Milliseconds of the plain step, and the ratios by column."""

    plain_ms: float
    ratios: dict[str, StepRatios]


def measure(case: Case, base: str, columns: list[str], rounds: int) -> Measured:
    """Time the steps of a case in turns."""
    plain = BASES[base]()
    steps = {"base": compiled(plain_step(case, plain), case, plain.init(case.params))}
    for name in columns:
        tx = gt.implicit(BASES[base](), **COLUMNS[name])
        steps[name] = compiled(game_step(case, tx), case, tx.init(case.params))
    seconds = time_interleaved({name: step.run for name, step in steps.items()}, rounds, 0.05)
    reference = steps["base"]
    ratios = {
        name: StepRatios(
            median_ratio(seconds[name], seconds["base"]),
            steps[name].flops / reference.flops,
            steps[name].accessed / reference.accessed,
            steps[name].temporary / reference.temporary,
            steps[name].compile_seconds / reference.compile_seconds,
        )
        for name in columns
    }
    return Measured(float(np.median(seconds["base"])) / case.scanned * 1e3, ratios)


def main() -> None:
    """Print one block per model and base."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", default="", help="models whose name contains this text")
    parser.add_argument("--base", choices=tuple(BASES), default="adam")
    parser.add_argument("--columns", nargs="+", choices=tuple(COLUMNS), default=list(COLUMNS))
    options = parser.parse_args()
    for name, make in CASES.items():
        if options.only in name:
            measured = measure(make(), options.base, options.columns, options.rounds)
            print(f"{name} | {options.base}\n    plain step {measured.plain_ms:.2f} ms")
            for column, ratios in measured.ratios.items():
                print(f"    {column:10s} {ratios.text}", flush=True)


if __name__ == "__main__":
    main()
