"""An image as a function of its coordinates: the joint game beside Adam, on a photograph.

Each step takes some random pixels. The quality is the peak signal-to-noise ratio over all pixels.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_sample_image

import gtddp_jax as gt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=100, help="steps of the joint game")
options = parser.parse_args()
jax.config.update("jax_enable_x64", True)
WIDTH, PIXELS = 64, 800

photograph = load_sample_image("flower.jpg").mean(-1)[:384, 160:544] / 255
gray = photograph.reshape(WIDTH, 6, WIDTH, 6).mean((1, 3)).ravel()
axis = np.linspace(-1.0, 1.0, WIDTH)
points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def network(params, point):
    """Return the gray value at one point [2]."""
    angles = (jnp.pi / 2 * jnp.array([1.0, 2.0, 4.0, 8.0])[:, None] * point[None]).ravel()
    hidden = jnp.concatenate([point, jnp.sin(angles), jnp.cos(angles)])
    for kernel, bias in params[:-1]:
        hidden = jnp.tanh(kernel @ hidden + bias)
    return (params[-1][0] @ hidden + params[-1][1])[0]


def misfit(params, sample):
    """Return the residual of one pixel."""
    point, value = sample
    return network(params, point) - value


sizes = [(32, 18), (32, 32), (1, 32)]
params = [
    (jax.random.normal(key, size) * size[1] ** -0.5, jnp.zeros(size[0]))
    for key, size in zip(jax.random.split(jax.random.key(0), len(sizes)), sizes, strict=True)
]
data = jnp.asarray(points), jnp.asarray(gray)
tx = gt.joint({"misfit": misfit}, damping=1e-3, momentum=0.9)
adam = optax.adam(3e-3)


def draw(key):
    """Return some pixels."""
    rows = jax.random.choice(key, len(gray), (PIXELS,), replace=False)
    return data[0][rows], data[1][rows]


def joint_step(params, state, key):
    """Make a step of the joint game."""
    updates, state = tx.update(None, state, params, batch={"misfit": draw(key)})
    return optax.apply_updates(params, updates), state


def adam_step(params, state, key):
    """Make a step of Adam on the same objective."""

    def loss(params):
        return 0.5 * jnp.mean(jax.vmap(misfit, (None, 0))(params, draw(key)) ** 2)

    updates, state = adam.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state


def train(name, optimizer, step, finished):
    """Train until `finished(steps, seconds)`, and print the quality."""
    trained, state = params, optimizer.init(params)
    step = jax.jit(step).lower(trained, state, jax.random.key(0)).compile()
    start, steps = time.perf_counter(), 0
    while not finished(steps, time.perf_counter() - start):
        trained, state = jax.block_until_ready(step(trained, state, jax.random.key(steps)))
        steps += 1
    seconds = time.perf_counter() - start
    error = jax.vmap(network, (None, 0))(trained, data[0]) - data[1]
    quality = -10 * jnp.log10(jnp.mean(error**2))
    print(f"{name:10}  {steps:5} steps  {seconds:4.1f} s  {quality:.1f} dB", flush=True)
    return seconds


seconds = train("joint game", tx, joint_step, lambda steps, _: steps == options.steps)
train("Adam", adam, adam_step, lambda _, spent: spent >= seconds)
