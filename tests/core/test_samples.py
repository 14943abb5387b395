"""Reductions over samples that are spread over devices equal those over all samples on one."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gtddp_jax.core.samples import SampleReductions, varying_axes

HOSTS, PER_HOST, LOCAL = 2, 3, 2
X = np.random.default_rng(0).normal(size=(HOSTS * PER_HOST * LOCAL, 4))

SPREADS: dict[str, tuple[Any, tuple[str, ...], int]] = {
    "alone": (None, (), 1),
    "devices": ("devices", ("devices",), HOSTS * PER_HOST),
    "hosts of devices": (("hosts", "devices"), ("hosts", "devices"), HOSTS * PER_HOST),
}
"""How samples are spread: the `axis_name`, the mapped axes, the number of devices."""


def on_each_device(function: Callable[[Any, jax.Array], Any], spread: str) -> Any:
    """What the function returns on each device, [devices, ...], for its part of `X`."""
    axis_name, names, devices = SPREADS[spread]
    sizes = (HOSTS, PER_HOST) if len(names) == 2 else (devices,) * len(names)
    parts = jnp.asarray(X).reshape(*sizes, len(X) // devices, -1)
    mapped = functools.partial(function, SampleReductions(len(X) // devices, axis_name))
    for name in reversed(names):
        mapped = jax.vmap(mapped, axis_name=name, axis_size=sizes[names.index(name)])
    return jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(devices, *leaf.shape[len(names) :]), mapped(parts)
    )


REDUCTIONS: dict[str, tuple[Callable[[Any, jax.Array], Any], Any]] = {
    "count": (lambda samples, x: jnp.asarray(samples.count), len(X)),
    "sum": (lambda samples, x: samples.sum_over_devices(x.sum(0)), X.sum(0)),
    "mean of sums": (
        lambda samples, x: samples.mean_of_sums({"x": x.sum(0)})["x"],
        X.mean(0),
    ),
    "mean": (lambda samples, x: samples.mean(x[:, 0]), X[:, 0].mean()),
    "min": (lambda samples, x: samples.min(x), X.min()),
    "max": (lambda samples, x: samples.max(x), X.max()),
    "gather": (lambda samples, x: samples.gather_over_devices(x), X),
    "all, true": (lambda samples, x: samples.all(x.min() >= X.min()), True),
    "all, false on one device": (lambda samples, x: samples.all(x.min() > X.min()), False),
    "mean of floats": (lambda samples, x: samples.mean_floats((x.mean(0),))[0], X.mean(0)),
}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_every_device_has_the_reduction_over_all_samples(name: str, spread: str) -> None:
    reduce, want = REDUCTIONS[name]
    for got in on_each_device(reduce, spread):
        assert got.shape == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("spread", SPREADS)
def test_other_arrays_are_not_averaged(spread: str) -> None:
    """Counters and flags of a model's state stay those of the device."""
    ranks = on_each_device(
        lambda samples, x: samples.mean_floats((jnp.argmax(x[:, 0]), x[0, 0] > 0)), spread
    )
    parts = X[:, 0].reshape(SPREADS[spread][2], -1)
    np.testing.assert_array_equal(ranks[0], parts.argmax(1))
    np.testing.assert_array_equal(ranks[1], parts[:, 0] > 0)


@pytest.mark.parametrize("spread", SPREADS)
def test_keys_differ_between_devices(spread: str) -> None:
    key = jax.random.key(0)
    data = on_each_device(
        lambda samples, x: jax.random.key_data(samples.keys_per_device((key,))[0]), spread
    )
    assert len({tuple(row) for row in data}) == SPREADS[spread][2]
    if spread == "alone":
        np.testing.assert_array_equal(data[0], jax.random.key_data(key))


@pytest.mark.parametrize("axis_name", ["devices", ("devices",)])
def test_a_local_copy_varies_over_devices(axis_name: Any) -> None:
    """What varies is differentiated on each device; a replicated value has a summed derivative."""
    varying = []

    def local(replicated: jax.Array, own: jax.Array) -> jax.Array:
        samples = SampleReductions(1, axis_name)
        copies: Any = samples.local_copy({"replicated": replicated, "own": own})
        varying.extend(map(varying_axes, (replicated, own, *copies.values())))
        return samples.sum_over_devices(copies["replicated"] * copies["own"])

    mesh = jax.sharding.Mesh(jax.devices()[:1], ("devices",))
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("devices")), out_specs=P())
    np.testing.assert_array_equal(mapped(jnp.array([2.0]), jnp.array([3.0])), [6.0])
    assert varying == [frozenset(), *3 * [frozenset({"devices"})]]


def test_a_copy_without_devices_is_the_tree() -> None:
    tree = {"x": jnp.asarray(X)}
    assert SampleReductions(len(X)).local_copy(tree) is tree
