"""A slice of the properties; `python -m tests.properties` checks ten thousand cases and more."""

from collections.abc import Iterator

import jax
import pytest

from tests.conftest import RunPython
from tests.properties import runner
from tests.properties.findings import BOUNDS

SEED = 2020
WORLDS = {"sequential": range(6), "implicit": range(6), "joint": range(3)}
DRAWS = 10
WRONG = 5
"""The index of a small world of the sequential game with a diagonal base."""
EVERYWHERE = {
    "the step is taken",
    "dtypes stay",
    "fast equals dense",
    "permuted samples, same step",
    "scaled loss, same step",
}
WEIGHTED = {
    "feedback off equals the base",
    "scaled loss, same base step",
    "scaled loss, same weights",
}
OWN = {
    "sequential": WEIGHTED | {"permuted samples, same weights", "duplicated batch, same base step"},
    "implicit": WEIGHTED
    | {
        "permuted samples, permuted weights",
        "duplicated batch, same step",
        "duplicated batch, same weights",
    },
    "joint": {"duplicated batch, same step", "the direction is remembered"},
}


@pytest.fixture(autouse=True)
def hostile() -> Iterator[None]:
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("game", runner.GAMES)
def test_random_worlds(game: str) -> None:
    tally = runner.Tally()
    for _ in runner.play(game, SEED, WORLDS[game], DRAWS, tally):
        pass
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.cases == DRAWS * len(WORLDS[game])
    assert tally.moved > 0.3 * tally.cases  # otherwise the game was not tested
    assert set(tally.checks) >= EVERYWHERE | OWN[game]


@pytest.mark.slow
def test_random_worlds_on_two_devices(run_python: RunPython) -> None:
    result = run_python(
        *("-W", "error", "-m", "tests.properties.devices", "--worlds", "2"),
        devices=2,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    errors = [float(line.rpartition(" ")[2]) for line in result.stdout.splitlines()]
    assert len(errors) == 4 and max(errors) < BOUNDS["float64"], result.stdout


@pytest.mark.slow
def test_a_wrong_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The properties can fail: with rho off by 0.001, a world with feedback reports it."""
    from gtddp_jax.curvature.diagonal import DiagonalPolicy

    right = DiagonalPolicy.quadratic_form
    monkeypatch.setattr(DiagonalPolicy, "quadratic_form", lambda *given: 1.001 * right(*given))
    tally = runner.Tally()
    for _ in runner.play("sequential", SEED, [WRONG], 1, tally):
        pass
    assert any("fast equals dense" in failure for failure in tally.failures), tally
