"""An existing nnx model trained with GT-DDP-Adam, through `nnx.Optimizer`.

A small transformer on the rows of scikit-learn's 8x8 digits, trained with Adam and with the game,
from the same initial parameters on the same batches. Lines of the game are marked `game:`.

python examples/flax_nnx.py [--epochs N]
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gtddp_jax as gt

BATCH, RATE, WIDTH = 64, 3e-3, 32
images, labels = map(np.asarray, load_digits(return_X_y=True))
train_x, test_x, train_y, test_y = map(
    np.asarray,
    train_test_split((images / 16).astype("float32").reshape(-1, 8, 8), labels, random_state=0),
)
loss = optax.softmax_cross_entropy_with_integer_labels


class Transformer(nnx.Module):
    """Two transformer blocks over the eight rows of an image."""

    def __init__(self, rngs):
        self.embed = nnx.Linear(8, WIDTH, rngs=rngs)
        self.positions = nnx.Param(0.1 * jax.random.normal(rngs.params(), (1, 8, WIDTH)))
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, x):
        """Map images [B, 8, 8] to class scores [B, 10]."""
        x = self.embed(x) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Block(nnx.Module):
    """A transformer block with dropout."""

    def __init__(self, rngs):
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 64, rngs=rngs), nnx.Linear(64, WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.05, rngs=rngs)

    def __call__(self, x):
        """Map [B, 8, WIDTH] to the same shape."""
        x = x + self.attention(self.norms[0](x))
        return x + self.dropout(self.down(nnx.gelu(self.up(self.norms[1](x)))))


@nnx.jit
def base_step(model, optimizer, x, y):
    """Make an ordinary step."""
    value, gradient = nnx.value_and_grad(lambda model: loss(model(x), y).mean())(model)
    optimizer.update(model, gradient)
    return value


@nnx.jit
def game_step(model, optimizer, x, y):
    """Make a step. The game computes the gradient and keeps random streams and statistics."""
    no_running_cost = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    optimizer.update(model, no_running_cost, batch=(x, y))  # game:
    nnx.update(model, nnx.as_pure(optimizer.opt_state.batch_stats))  # game:
    return optimizer.opt_state.report.loss[...]


def train(name, make_optimizer, step, epochs):
    """Train one copy of the model."""
    model = Transformer(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, make_optimizer(model), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        whole = len(train_x) // BATCH * BATCH
        values = [
            step(model, optimizer, train_x[batch], train_y[batch])
            for batch in rng.permutation(len(train_x))[:whole].reshape(-1, BATCH)
        ]
        print(f"{name:7} epoch {epoch + 1:2}  mean loss {np.mean(values):.4f}")
    model.eval()
    print(f"{name:7} test accuracy {np.mean(np.argmax(model(test_x), -1) == test_y):.1%}")


def main():
    """Train with both optimizers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs

    def game(model):
        net = gt.from_flax(model, train_x[:BATCH])  # game:
        print(gt.explain(net))
        return gt.adam(net, loss, RATE)  # game:

    train("Adam", lambda model: optax.adam(RATE), base_step, epochs)
    train("GT-DDP", game, game_step, epochs)


if __name__ == "__main__":
    main()
