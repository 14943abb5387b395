"""The auxiliary output of many devices is their mean."""

import pytest

from tests.conftest import RunPython


@pytest.mark.slow
def test_floats_are_averaged_over_devices(run_python: RunPython) -> None:
    script = "tests.robustness.composition.aux_devices_script"
    result = run_python("-W", "error", "-m", script, devices=4, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["pmap: equal", "shard_map: equal"]
