"""Four devices with a quarter of the batch each take the same step as one device."""

import pytest

from tests.conftest import RunPython


@pytest.mark.slow
def test_many_devices_equal_one(run_python: RunPython) -> None:
    cases = ("sketch", "full", "exact")
    ways = ("pmap", "shard_map", "sharded_jit")
    result = run_python(
        "-W", "error", "-m", "tests.implicit.devices_script", devices=4, timeout=300
    )
    assert result.returncode == 0, result.stderr
    want = [f"{way}, {case}: equal" for way in ways for case in cases]
    assert sorted(result.stdout.splitlines()) == sorted([*want, "gram: refused"])
