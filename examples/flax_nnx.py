"""An existing nnx model under GT-DDP-Adam, through `nnx.Optimizer`.

A small transformer on the rows of scikit-learn's 8x8 digits, with Adam and with the game beside
it, from the same start on the same batches. The lines of the game are marked `game:`.

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
    """Two blocks of attention and perceptron over the eight rows of an image."""

    def __init__(self, rngs):
        self.embed = nnx.Linear(8, WIDTH, rngs=rngs)
        self.positions = nnx.Param(0.1 * jax.random.normal(rngs.params(), (1, 8, WIDTH)))
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, x):
        """Maps images [B, 8, 8] to class scores [B, 10]."""
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
        """Maps [B, 8, WIDTH] to the same shape."""
        x = x + self.attention(self.norms[0](x))
        return x + self.dropout(self.down(nnx.gelu(self.up(self.norms[1](x)))))


@nnx.jit
def base_step(model, optimizer, x, y):
    """The usual step."""
    value, gradient = nnx.value_and_grad(lambda m: loss(m(x), y).mean())(model)
    optimizer.update(model, gradient)
    return value


@nnx.jit
def game_step(model, optimizer, x, y):
    """The game takes the gradient itself; random streams and statistics are in its state."""
    no_running_cost = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    optimizer.update(model, no_running_cost, batch=(x, y))  # game:
    nnx.update(model, nnx.as_pure(optimizer.opt_state.batch_stats))  # game:
    return optimizer.opt_state.report.loss[...]


def train(name, make, step, epochs):
    """Trains one copy of the model."""
    model = Transformer(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, make(model), wrt=nnx.Param)
    order = np.random.default_rng(0)
    for epoch in range(epochs):
        whole = len(train_x) // BATCH * BATCH
        values = [
            step(model, optimizer, train_x[batch], train_y[batch])
            for batch in order.permutation(len(train_x))[:whole].reshape(-1, BATCH)
        ]
        print(f"{name:7} epoch {epoch + 1:2}  mean loss {np.mean(values):.4f}")
    model.eval()
    print(f"{name:7} test accuracy {np.mean(np.argmax(model(test_x), -1) == test_y):.1%}")


def main():
    """Prints both runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs

    def game(model):
        net = gt.from_flax(model, train_x[:BATCH])  # game:
        print(net.explain())
        return gt.adam(net, loss, RATE)  # game:

    train("Adam", lambda model: optax.adam(RATE), base_step, epochs)
    train("GT-DDP", game, game_step, epochs)


if __name__ == "__main__":
    main()
