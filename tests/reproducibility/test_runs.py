"""Runs repeat bit by bit on one machine, and within tolerances across versions of JAX."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import child_environment
from tests.reproducibility.golden import GOLDEN, runs

ROOT = Path(__file__).resolve().parents[2]
SOON = ("sequential adam", "sequential ekfac", "implicit adam")
"""The runs that the quick tests repeat; the slow test repeats all."""
RENEW = "After an intended change: python -m tests.reproducibility.golden --write"

DIGITS = {"loss": 1e-9, "parameters": 1e-9}
REPORTED = 1e-5
"""Relative tolerances: runs compute in float64 and report in float32."""


def figures(*names: str) -> dict[str, dict[str, Any]]:
    """The results of runs, computed in a separate process."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.reproducibility.golden", *names],
        cwd=ROOT,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    return figures()


def test_all_runs_are_kept() -> None:
    assert list(json.loads(GOLDEN.read_text(encoding="utf-8"))) == list(runs())


@pytest.mark.slow
@pytest.mark.parametrize("name", runs())
def test_runs_are_as_they_were(found: dict[str, dict[str, Any]], name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    assert set(golden) == set(found[name]) - {"digest"}
    for figure, then in golden.items():
        now, tolerance = found[name][figure], DIGITS.get(figure, REPORTED)
        if isinstance(then, dict):
            assert set(then) == set(now)
            then, now = list(then.values()), [now[key] for key in then]
        np.testing.assert_allclose(now, then, rtol=tolerance, atol=tolerance, err_msg=RENEW)


@pytest.mark.slow
def test_a_run_is_repeated_bit_by_bit(found: dict[str, dict[str, Any]]) -> None:
    assert figures(*SOON) == {name: found[name] for name in SOON}


@pytest.mark.slow
def test_every_run_is_repeated_bit_by_bit(found: dict[str, dict[str, Any]]) -> None:
    assert figures() == found
