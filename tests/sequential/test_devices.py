"""Four devices, each with a quarter of the batch, take the same step as one device."""

import pytest

from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.conftest import RunPython

METHODS = ("sgd", "adam")
"""Each placement runs with one of the rollouts; the two choices are independent."""


@pytest.mark.slow
def test_many_devices_equal_one(run_python: RunPython) -> None:
    cases = [f"{method}, {rollout}" for method, rollout in zip(METHODS, ROLLOUTS, strict=True)]
    cases += ["recomputed gradients of convolutions", "batch normalisation"]
    ways = ("pmap", "shard_map", "sharded_jit")
    result = run_python(
        "-W", "error", "-m", "tests.sequential.devices_script", devices=4, timeout=300
    )
    assert result.returncode == 0, result.stderr
    want = [f"{way}, {case}: equal" for way in ways for case in cases]
    want += ["local copies: equal", "keys: 4 different ones"]
    want += [f"{way}, statistics by device: mean" for way in ("pmap", "shard_map")]
    assert sorted(result.stdout.splitlines()) == sorted(want)
