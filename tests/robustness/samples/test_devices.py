"""Padding that is spread unevenly over four devices changes nothing either."""

import pytest

from tests.conftest import RunPython
from tests.robustness.samples.devices_script import NAMES


@pytest.mark.slow
def test_padding_on_many_devices(run_python: RunPython) -> None:
    result = run_python(
        "-W", "error", "-m", "tests.robustness.samples.devices_script", devices=4, timeout=600
    )
    assert result.returncode == 0, result.stderr
    ways = ("pmap", "shard_map", "sharded_jit")
    want = [f"{way}, {name}: equal" for way in ways for name in NAMES]
    assert sorted(result.stdout.splitlines()) == sorted(want)
