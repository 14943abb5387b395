"""An existing linen model trained with GT-DDP-Adam, in an ordinary `TrainState` loop.

A small ResNet with BatchNorm and dropout on scikit-learn's 8x8 digits, trained with Adam and with
the game, from the same initial parameters on the same batches. Lines of the game are marked
`game:`.

python examples/flax_linen.py [--epochs N]
"""

import argparse
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gtddp_jax as gt

BATCH, RATE = 64, 1e-3
images, labels = map(np.asarray, load_digits(return_X_y=True))
train_x, test_x, train_y, test_y = map(
    np.asarray,
    train_test_split((images / 16).astype("float32").reshape(-1, 8, 8, 1), labels, random_state=0),
)
loss = optax.softmax_cross_entropy_with_integer_labels


class ResNet(nn.Module):
    """Two residual blocks; the second one is strided and has a projection on its shortcut."""

    @nn.compact
    def __call__(self, x, train):
        """Map images [B, 8, 8, 1] to class scores [B, 10]."""

        def norm(x):
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(norm(nn.Conv(16, (3, 3), use_bias=False)(x)))
        for width, strides in ((16, 1), (32, 2)):
            h = nn.relu(norm(nn.Conv(width, (3, 3), strides=strides, use_bias=False)(x)))
            h = norm(nn.Conv(width, (3, 3), use_bias=False)(h))
            if h.shape != x.shape:
                x = norm(nn.Conv(width, (1, 1), strides=strides, use_bias=False)(x))
            x = nn.relu(x + h)
        x = nn.Dropout(0.1, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(10)(x)


model = ResNet()
variables = model.init(jax.random.key(0), train_x[:1], train=False)


class State(TrainState):
    """A train state with batch statistics."""

    batch_stats: Any


@jax.jit
def base_step(state, x, y, key):
    """Make an ordinary step."""

    def mean_loss(params):
        outputs, after = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return loss(outputs, y).mean(), after["batch_stats"]

    (value, stats), gradient = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradient, batch_stats=stats), value


@jax.jit
def game_step(state, x, y, key):
    """Make a step. The game computes the gradient and keeps the batch statistics in its state."""
    updates, opt_state = state.tx.update(  # game:
        None, state.opt_state, state.params, batch=(x, y), rngs={"dropout": key}
    )
    params = optax.apply_updates(state.params, updates)
    stats = opt_state.batch_stats  # game:
    state = state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, batch_stats=stats
    )
    return state, opt_state.report.loss


def train(name, tx, step, epochs):
    """Train one copy of the model."""
    state = State.create(apply_fn=model.apply, tx=tx, **variables)
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        whole = len(train_x) // BATCH * BATCH
        values = []
        for batch in rng.permutation(len(train_x))[:whole].reshape(-1, BATCH):
            key = jax.random.key(int(state.step))
            state, value = step(state, train_x[batch], train_y[batch], key)
            values.append(value)
        print(f"{name:7} epoch {epoch + 1:2}  mean loss {np.mean(values):.4f}")
    scores = model.apply(
        {"params": state.params, "batch_stats": state.batch_stats}, test_x, train=False
    )
    print(f"{name:7} test accuracy {np.mean(np.argmax(scores, -1) == test_y):.1%}")


def main():
    """Train with both optimizers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs
    net = gt.from_flax(  # game:
        model, train_x[:BATCH], apply_kwargs={"train": True}, eval_kwargs={"train": False}
    )
    print(gt.explain(net))
    tx = gt.adam(net, loss, RATE, batch_stats=variables["batch_stats"])  # game:
    train("Adam", optax.adam(RATE), base_step, epochs)
    train("GT-DDP", tx, game_step, epochs)


if __name__ == "__main__":
    main()
