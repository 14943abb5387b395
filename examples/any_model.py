"""The implicit game on unmodified models: one in plain JAX and one in Flax.

Each model is trained twice, with the base optimizer and with the game, from the same initial
parameters on the same batches. Lines marked `game:` replace the lines marked `base:`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gtddp_jax as gt

BATCH, EPOCHS = 16, 10
images, labels = map(np.asarray, load_digits(return_X_y=True))
train_x, test_x, train_y, test_y = map(
    np.asarray, train_test_split((images / 16).astype("float32"), labels, random_state=0)
)
loss = optax.softmax_cross_entropy_with_integer_labels  # game: one loss per sample, no mean


def plain_model():
    """Return a residual network in plain JAX, as a function and its parameters."""
    sizes = {"in": (64, 64), "block": (64, 64), "out": (64, 10)}
    keys = jax.random.split(jax.random.key(0), len(sizes))
    init = nn.initializers.lecun_normal()
    params = {name: init(key, size) for key, (name, size) in zip(keys, sizes.items(), strict=True)}

    def apply_fn(params, x):
        h = jnp.tanh(x @ params["in"])
        h = h + jnp.tanh(h @ params["block"])
        return h @ params["out"]

    return apply_fn, params


class Net(nn.Module):
    """A small convolutional network in Flax."""

    @nn.compact
    def __call__(self, x):
        """Maps pixels [B, 64] to class scores [B, 10]."""
        h = nn.relu(nn.Conv(16, (3, 3), strides=2)(x.reshape(-1, 8, 8, 1)))
        h = nn.LayerNorm()(nn.relu(nn.Conv(32, (3, 3), strides=2)(h)))
        return nn.Dense(10)(h.reshape(len(h), -1))


def flax_model():
    """Return the Flax network, as a function and its parameters."""
    net = Net()
    params = net.init(jax.random.key(0), train_x[:1])["params"]
    return lambda params, x: net.apply({"params": params}, x), params


def train(apply_fn, params, base, game):
    """Train with the base optimizer or, if `game`, with the implicit game around it."""

    @jax.jit
    def base_step(params, state, batch):
        def mean_loss(params):
            return loss(apply_fn(params, batch[0]), batch[1]).mean()

        value, gradient = jax.value_and_grad(mean_loss)(params)  # base:
        updates, state = base.update(gradient, state, params)  # base:
        return optax.apply_updates(params, updates), state, value

    @jax.jit
    def game_step(params, state, batch):
        updates, state = tx.update(None, state, params, batch=batch)  # game: computes the gradient
        return (
            optax.apply_updates(params, updates),
            state,
            state.report.loss,
        )  # game: reports the loss

    tx = gt.implicit(base, apply_fn, loss) if game else base  # game: wraps any optax optimizer
    step = game_step if game else base_step
    state = tx.init(params)
    rng = np.random.default_rng(0)
    steps = len(train_x) // BATCH
    for _ in range(EPOCHS):
        losses = []
        for rows in rng.permutation(len(train_x))[: steps * BATCH].reshape(steps, BATCH):
            params, state, value = step(params, state, (train_x[rows], train_y[rows]))
            losses.append(value)
    accuracy = np.mean(np.argmax(apply_fn(params, test_x), -1) == test_y)
    return np.mean(losses), accuracy, state


for name, make_model in {"plain JAX": plain_model, "Flax": flax_model}.items():
    for game in (False, True):
        average, accuracy, state = train(*make_model(), base=optax.adam(3e-3), game=game)
        label = "implicit" if game else "base"
        print(f"{name:9}  {label:8}  last epoch's loss {average:.4f}  test accuracy {accuracy:.1%}")
    report = state.report
    print(
        f"{name:9}  weights of the last step: {report.sample_weight_min.item():.2f} to "
        f"{report.sample_weight_max.item():.2f}"
    )
