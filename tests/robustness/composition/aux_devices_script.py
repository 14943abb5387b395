"""Run by test_aux_devices.py with four virtual devices; prints a line per parallelism."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from tests.implicit import models
from tests.implicit.models import implicit

DEVICES = 4


def apply_fn(params: Any, x: jax.Array) -> Any:
    """A model that returns the mean of its inputs, and a count."""
    return models.mlp(params, x), {"mean": x.mean(0), "count": jnp.int32(x.shape[0])}


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    p = models.classification(batch=2 * DEVICES)
    tx = implicit(
        optax.sgd(0.1, momentum=0.9),
        apply_fn,
        p.loss,
        has_aux=True,
        aux={"mean": jnp.zeros(3), "count": jnp.int32(0)},
        axis_name="data",
        weighting="full",
    )

    def aux_after(x: jax.Array, y: jax.Array) -> Any:
        _, state = tx.update(None, tx.init(p.params), p.params, batch=(x, y))
        return jax.tree.map(lambda leaf: leaf[None], state.aux)

    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    x, y = (a.reshape(DEVICES, 2, *a.shape[1:]) for a in (p.x, p.y))
    ways = {
        "pmap": lambda: jax.pmap(aux_after, axis_name="data")(x, y),
        "shard_map": lambda: jax.jit(sharded(aux_after))(p.x, p.y),
    }
    for name, way in ways.items():
        aux = jax.block_until_ready(way())
        rows = np.asarray(aux["mean"]).reshape(DEVICES, 3)
        np.testing.assert_allclose(rows, np.tile(p.x.mean(0), (DEVICES, 1)), rtol=1e-12)
        np.testing.assert_array_equal(np.asarray(aux["count"]).ravel(), 2)
        print(f"{name}: equal")


if __name__ == "__main__":
    main()
