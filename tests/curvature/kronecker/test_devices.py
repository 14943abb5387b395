"""Four devices with a quarter of the batch each take the same step as one device."""

import pytest

from tests.conftest import RunPython


@pytest.mark.slow
def test_many_devices_equal_one(run_python: RunPython) -> None:
    result = run_python(
        "-W", "error", "-m", "tests.curvature.kronecker.devices_script", devices=4, timeout=300
    )
    assert result.returncode == 0, result.stderr
    ways, cases = ("pmap", "shard_map", "sharded_jit"), ("kfac, joint", "ekfac, window")
    want = [f"{way}, {case}: equal" for way in ways for case in cases]
    assert sorted(result.stdout.splitlines()) == sorted(want)
