"""Models are traced again inside of `jax.shard_map`, where values vary over the devices."""

from typing import Any

import jax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.robustness.models.devices_script import AXIS, CASES, LABELS, X, step_of


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_models_under_shard_map(name: str, check_vma: bool) -> None:
    """On one device types are those of many. Results are compared by `test_mapped_axes.py`."""
    tx, params = CASES[name](AXIS)
    mesh = jax.make_mesh((1,), (AXIS,), axis_types=(AxisType.Auto,))
    specs: Any = {"in_specs": (P(), P(), P(AXIS)), "out_specs": P(), "check_vma": check_vma}
    step = jax.shard_map(step_of(tx), mesh=mesh, **specs)
    state = tx.init(params)
    new_params, new_state = jax.eval_shape(step, params, state, (X, LABELS))
    for old, new in ((params, new_params), (state, new_state)):
        old_types, new_types = (
            [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (old, new)
        )
        assert old_types == new_types
