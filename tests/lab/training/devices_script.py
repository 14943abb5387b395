"""Run by test_distributed.py on four virtual devices; prints one line per check that holds."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

import gtddp_jax as gt
from gtddp_lab import data
from gtddp_lab.core import distributed
from tests.sequential.devices_script import DEVICES, distance, run, step_of

Tree = Any
LOSS = optax.softmax_cross_entropy_with_integer_labels
MESH = distributed.data_mesh()
WHOLE, SPREAD = distributed.replicated(MESH), distributed.split_samples(MESH)


def batch_of(*shape: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.integers(0, 3, shape[0]))


def double(tree: Tree) -> Tree:
    return jax.tree.map(lambda v: v.astype(jnp.float64), tree)


def network() -> gt.Network:
    body = [nn.Dense(8), jnp.tanh, nn.Dense(8)]
    return gt.Network([nn.Dense(8), jnp.tanh, gt.Residual(body), jnp.tanh, nn.Dense(3)])


def compare(label: str, got: Tree, want: Tree) -> None:
    error = distance(got, want)
    print(f"{label}: equal" if error < 1e-12 else f"{label}: differ by {error:.1e}")


def sharded_parameters() -> None:
    """Parameters and optimizer state split over four devices give the step of one device."""
    net, (x, y) = network(), batch_of(8, 4)
    params = double(net.init(jax.random.key(0), x))
    ways: dict[str, Any] = {
        "sgd": gt.sgd(net, LOSS, 0.1, momentum=0.9),
        "adam": gt.adam(net, LOSS, 0.05, rollout="nonlinear"),
        "ekfac": gt.ekfac(net, LOSS, 0.05, damping=0.1),
        "implicit": gt.implicit(optax.adam(0.05), net, LOSS, weighting="full"),
    }
    for label, tx in ways.items():
        step, start = step_of(tx), (params, tx.init(params))
        want = run(jax.jit(step), start, (x, y))[0]
        shardings = distributed.fsdp_shardings(start, MESH, smallest=16)
        placed = distributed.place_arrays(start, shardings)
        kernel = placed[0]["Dense_1"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // DEVICES
        sharded = jax.jit(step, out_shardings=shardings)
        got = run(sharded, placed, distributed.place_arrays((x, y), SPREAD))[0]
        assert got["Dense_1"]["kernel"].sharding == shardings[0]["Dense_1"]["kernel"]
        compare(f"fsdp, {label}", got, want)


def fed_batches() -> None:
    """One device and four devices build the same batch, bit for bit."""
    images = np.random.default_rng(0).random((40, 6, 6, 3), np.float32)
    labels = np.arange(40, dtype=np.int32) % 3
    dataset = data.Dataset("noise", images, labels, images[:4], labels[:4], classes=3)
    rows = data.epoch_order(seed=3, epoch=1, samples=40, batch_size=8)[0]
    options: dict[str, Any] = {"augmentation": "crop-flip", "normalise": True, "seed": 3}
    one, many = data.Feed(dataset, **options), data.Feed(dataset, **options, sharding=WHOLE)
    want = jax.jit(one.batch)(one.train, rows, 5)
    got = jax.jit(many.batch)(many.train, distributed.place_arrays(rows, SPREAD), 5)
    assert got[0].sharding.spec == P(distributed.DATA_AXIS), got[0].sharding
    jax.tree.map(np.testing.assert_array_equal, got, want)

    @functools.partial(
        jax.shard_map,
        mesh=MESH,
        in_specs=(P(), P(distributed.DATA_AXIS)),
        out_specs=P(distributed.DATA_AXIS),
    )
    def mapped(part: data.DataSplit, rows: jax.Array) -> Any:
        first = jax.lax.axis_index(distributed.DATA_AXIS) * len(rows)
        return many.batch(part, rows, 5, first)

    got = jax.jit(mapped)(many.train, distributed.place_arrays(rows, SPREAD))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    print("batches: equal")


def refusals() -> None:
    for devices in (0, 5):
        try:
            distributed.data_mesh(devices)
        except distributed.DistributedError as error:
            print(error)
    try:
        distributed.place_arrays(np.zeros((6, 2)), SPREAD)
    except distributed.DistributedError as error:
        print(error)
    assert distributed.data_mesh(2).devices.tolist() == jax.devices()[:2]


def main() -> None:
    fed_batches()
    refusals()
    jax.config.update("jax_enable_x64", True)
    sharded_parameters()


if __name__ == "__main__":
    main()
