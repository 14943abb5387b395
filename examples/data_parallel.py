"""Data-parallel training on four devices, in four ways, compared with one device.

The devices here are virtual CPU devices. On a machine with several accelerators, remove the three
lines that set them up.
"""
# ruff: noqa: E402  (JAX reads the number of devices when it is imported)

import os

DEVICES = 4
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
os.environ["NPROC"] = str(2 * DEVICES)  # with fewer threads a collective may deadlock

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits

import gtddp_jax as gt

images, labels = map(np.asarray, load_digits(return_X_y=True))
images = (images / 16).astype("float32")
batches = np.random.default_rng(0).integers(len(images), size=(10, 64))

block = gt.Residual([nn.Dense(64), nn.relu])
net = gt.Network([nn.Dense(64), nn.relu, block, nn.Dense(10)])
start = net.init(jax.random.key(0), images[:1])
loss = optax.softmax_cross_entropy_with_integer_labels
mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
explicit_mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Explicit,))
everywhere, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))


def train(tx, step, params_sharding=None, batch_sharding=None):
    """Make ten steps from the same start, with shardings of parameters and of samples."""
    params, state = jax.device_put((start, tx.init(start)), params_sharding)
    for rows in batches:
        batch = jax.device_put((images[rows], labels[rows]), batch_sharding)
        params, state = jax.block_until_ready(
            step(params, state, batch)
        )  # required by virtual devices
    return params, state


def one_device(make_optimizer):
    """Train on one device; the other ways must give the same result."""
    tx = make_optimizer()
    return train(tx, gt.make_update(tx))


def sharded_batch(make_optimizer):
    """Under jit, it suffices to split the samples of the batch over the devices."""
    tx = make_optimizer()
    return train(tx, gt.make_update(tx), everywhere, spread)


def explicit(make_optimizer):
    """The same with axes of type Explicit: the type of an array tells how it is spread."""
    tx = make_optimizer()
    with jax.set_mesh(explicit_mesh):
        return train(tx, gt.make_update(tx), P(), P("data"))


def mapped(make_optimizer):
    """Under shard_map, the optimizer needs the name of the axis."""
    tx = make_optimizer(axis_name="data")
    whole, part = P(), P("data")
    step = jax.shard_map(
        gt.make_update(tx), mesh=mesh, in_specs=(whole, whole, part), out_specs=(whole, whole)
    )
    return train(tx, jax.jit(step), everywhere, spread)


def with_pmap(make_optimizer):
    """Under pmap too; every array gets an axis of devices, and results are those of the first."""
    tx = make_optimizer(axis_name="data")
    step = jax.pmap(gt.make_update(tx), axis_name="data")
    copies = jax.tree.map(lambda leaf: np.stack([leaf] * DEVICES), (start, tx.init(start)))
    for rows in batches:
        parts = (each[rows].reshape(DEVICES, -1, *each.shape[1:]) for each in (images, labels))
        copies = jax.block_until_ready(step(*copies, tuple(parts)))
    return jax.tree.map(lambda leaf: leaf[0], copies)


# SGD, because Adam amplifies rounding errors of vanishing gradients to full steps.
GAMES = {
    "sequential": partial(gt.sgd, net, loss, 0.05, momentum=0.9),
    "implicit": partial(gt.implicit, optax.sgd(0.05, 0.9), net, loss, weighting="full"),
}

for name, make_optimizer in GAMES.items():
    expected, state = one_device(make_optimizer)
    print(f"{name:10}  one device     loss {state.report.loss:.6f}")
    for way in (sharded_batch, explicit, mapped, with_pmap):
        params, state = way(make_optimizer)
        apart = max(
            jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), params, expected))
        )
        print(f"{'':10}  {way.__name__:13}  loss {state.report.loss:.6f}  apart by {apart:.1e}")
        assert apart < 1e-4, "several devices must give the result of one"
