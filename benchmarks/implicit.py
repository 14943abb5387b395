"""Step time and memory of the implicit game against its plain optax base, interleaved.

python benchmarks/implicit.py [--rounds N] [--only TEXT] [--base NAME]
"""

import argparse
import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from nets import conv_block, mlp_case, one_block_case

import gtddp_jax as gt
from gtddp_lab.networks import pool
from gtddp_lab.studies.step_timing import (
    batch_update_step,
    compile_step,
    median_ratio,
    time_interleaved,
)

LOSS = optax.softmax_cross_entropy_with_integer_labels
BASES = {"sgd": lambda: optax.sgd(1e-2, 0.9), "adam": lambda: optax.adam(1e-3)}


class Model(NamedTuple):
    """A model, its parameters and a batch.

    Attributes:
        model: as `gt.implicit` takes it.
        apply_fn: `apply_fn(params, inputs) -> outputs`.
        params: its parameters.
        batch: inputs and targets.
        loss: `loss(outputs, targets) -> [B]`.
    """

    model: Any
    apply_fn: Callable[..., Any]
    params: Any
    batch: Any
    loss: Callable[..., Any] = LOSS


def of_network(net: gt.Network, shape: tuple[int, ...]) -> Model:
    """A `gt.Network`."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    batch = x, jnp.asarray(rng.integers(0, 10, shape[0]))
    return Model(net, net.apply, net.init(jax.random.key(0), x[:1]), batch)


def pooled(blocks: int, batch: int = 32) -> Model:
    """A residual net with a pooled head on 28x28 images."""
    layers: list[Any] = [nn.Conv(16, (3, 3), 2), nn.relu]
    for _ in range(blocks):
        layers += conv_block(16)
    return of_network(gt.Network([*layers, pool, nn.Dense(10)]), (batch, 28, 28, 1))


class Transformer(nn.Module):
    """A small language model."""

    width: int = 128
    layers: int = 4
    vocabulary: int = 256

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Tokens [B, T] to logits [B, T, vocabulary]."""
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x = x + nn.SelfAttention(4)(nn.LayerNorm()(x), mask)
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))


def transformer(batch: int = 16, length: int = 64) -> Model:
    """A 4-layer transformer with one loss per sequence."""
    model = Transformer()
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (batch, length + 1)))
    params = model.init(jax.random.key(0), tokens[:1, :-1])
    shifted = (tokens[:, :-1], tokens[:, 1:])
    return Model(model.apply, model.apply, params, shifted, lambda o, t: LOSS(o, t).mean(-1))


CASES: dict[str, Callable[[], Model]] = {
    "digits 8x8x16, B=8": lambda: of_network(*one_block_case(16, 8, 1, 8)),
    "digits 8x8x16, B=128": lambda: of_network(*one_block_case(16, 8, 1, 128)),
    "mlp 784-512, B=8": lambda: of_network(*mlp_case(8)),
    "mlp 784-512, B=128": lambda: of_network(*mlp_case(128)),
    "1 block 28x28x16, B=128": lambda: of_network(*one_block_case(16, 28, 1, 128)),
    "8 blocks pooled, B=32": lambda: pooled(8),
    "16 blocks pooled, B=32": lambda: pooled(16),
    "transformer, B=16": transformer,
}


def variants(model: Model) -> dict[str, dict[str, Any]]:
    """Model and options of `gt.implicit` by column name."""
    any_model, network = {"model": model.apply_fn}, {"model": model.model}
    return {
        "sketch": any_model,
        "full": network | {"weighting": "full"},
        "full, any model": any_model | {"weighting": "full"},
    }


def plain_step(model: Model, tx: Any) -> Callable[..., Any]:
    """A plain optax training step."""

    def step(params: Any, state: Any, batch: Any) -> Any:
        def mean(params: Any) -> jax.Array:
            return model.loss(model.apply_fn(params, batch[0]), batch[1]).mean()

        value, gradient = jax.value_and_grad(mean)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def measure(model: Model, base: str, rounds: int) -> dict[str, tuple[float, float]]:
    """Time and memory ratios to the plain step, by column."""
    make = BASES[base]
    plain = make()
    steps, memory = {}, {}
    steps["base"], memory["base"] = compile_step(
        plain_step(model, plain), model.params, plain.init(model.params), model.batch
    )
    for name, options in variants(model).items():
        tx = gt.implicit(make(), options.pop("model"), model.loss, **options)
        state = tx.init(model.params)
        steps[name], memory[name] = compile_step(
            batch_update_step(tx), model.params, state, model.batch
        )
    seconds = time_interleaved(steps, rounds)
    times = {name: median_ratio(seconds[name], seconds["base"]) for name in steps}
    print(f"    plain step {np.median(seconds['base']) * 1e3:.2f} ms", flush=True)
    return {name: (value, memory[name] / memory["base"]) for name, value in times.items()}


def main() -> None:
    """Print one block per network and base, then geometric means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default="", help="networks whose name contains this text")
    parser.add_argument("--base", choices=tuple(BASES), default=None)
    options = parser.parse_args()
    every: dict[str, list[float]] = collections.defaultdict(list)
    for name, make in CASES.items():
        if options.only not in name:
            continue
        model = make()
        for base in [options.base] if options.base else BASES:
            print(f"{name} | {base}")
            for column, (time, memory) in measure(model, base, options.rounds).items():
                every[column].append(time)
                print(f"    {column:22s} {time:5.2f}x  memory {memory:5.2f}x", flush=True)
    print("geometric means")
    for column, ratios in every.items():
        print(f"    {column:22s} {np.exp(np.mean(np.log(ratios))):5.2f}x")


if __name__ == "__main__":
    main()
