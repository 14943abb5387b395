"""A small character-level GPT, trained with Adam and with GT-DDP-Adam.

The text consists of the descriptions of scikit-learn's data sets: 45 kB of English. The embedding
is shared with the output layer, and the loss of a sample is the mean over its positions.

python examples/char_gpt.py [--steps N]
"""

import argparse
from importlib import resources

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt

LENGTH, BATCH, WIDTH, LAYERS, RATE = 48, 16, 64, 3, 2e-3

folder = resources.files("sklearn.datasets.descr")
files = sorted((f for f in folder.iterdir() if f.name.endswith(".rst")), key=lambda f: f.name)
text = "\n".join(f.read_text(encoding="utf-8") for f in files)
letters = sorted(set(text))
codes = np.array([letters.index(c) for c in text])
train_text, test_text = np.split(codes, [int(0.9 * len(codes))])


class Block(nn.Module):
    """Causal attention and a multilayer perceptron."""

    @nn.compact
    def __call__(self, x):
        """Map [B, T, WIDTH] to the same shape."""
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2]))
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x), mask=mask)
        h = nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x)))
        return x + nn.Dense(WIDTH)(h)


class GPT(nn.Module):
    """A language model with tied embeddings."""

    @nn.compact
    def __call__(self, tokens):
        """Map characters [B, T] to scores of the next characters [B, T, letters]."""
        embed = nn.Embed(len(letters), WIDTH)
        x = embed(tokens) + nn.Embed(LENGTH, WIDTH)(jnp.arange(tokens.shape[1]))[None]
        for _ in range(LAYERS):
            x = Block()(x)
        return embed.attend(nn.LayerNorm()(x))


def loss(outputs, y):
    """Return one loss per sample, the mean over its positions."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean(-1)


def batches(source, steps, seed):
    """Yield pieces of text, and the same pieces shifted by one character."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        start = rng.integers(0, len(source) - LENGTH, size=(BATCH, 1))
        window = source[start + np.arange(LENGTH + 1)]
        yield window[:, :-1], window[:, 1:]


model = GPT()
start = model.init(jax.random.key(0), jnp.zeros((1, LENGTH), int))["params"]


@jax.jit
def test_loss(params, batch):
    """Mean loss in nats per character."""
    return loss(model.apply({"params": params}, batch[0]), batch[1]).mean()


def train(name, tx, step, steps):
    """Train one copy of the model."""
    params, state = start, tx.init(start)
    for i, batch in enumerate(batches(train_text, steps, 1), 1):
        params, state = step(params, state, batch)
        if i % max(1, steps // 5) == 0:
            values = [test_loss(params, held) for held in batches(test_text, 8, 2)]
            print(f"{name:7} step {i:4}  held-out loss {np.mean(values):.4f} nats per character")


def main():
    """Train with both optimizers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    base = optax.adam(RATE)
    net = gt.from_flax(model, next(batches(train_text, 1, 0))[0])
    print(gt.explain(net))
    game = gt.adam(net, loss, RATE)

    @jax.jit
    def adam_step(params, state, batch):
        gradient = jax.grad(test_loss)(params, batch)
        updates, state = base.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    train("Adam", base, adam_step, steps)
    train("GT-DDP", game, gt.make_update(game), steps)


if __name__ == "__main__":
    main()
