"""The sentence about a comparison, and losses at equal time, against numbers done by hand."""

import math
from dataclasses import replace

import pytest

from gtddp_lab.training.equal_time import loss_at_time
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.run_summary import summarize_records
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.verdict import describe_findings

COMPARISON = Experiment(
    dataset="digits",
    network="residual-conv",
    optimizer="sgd",
    games=("none", "implicit"),
    settings=TrainSettings(0.1),
    epochs=2,
    batch_size=8,
    seeds=(0, 1),
    rival="nesterov",
)


def run(method: str, seed: int, losses: list[float], seconds: float) -> list[EpochRecord]:
    return [
        EpochRecord(method, seed, epoch, loss, loss, loss, 0.5, seconds, {})
        for epoch, loss in enumerate(losses, start=1)
    ]


BASE = [*run("sgd", 0, [4.0, 2.0], 1.0), *run("sgd", 1, [4.0, 8.0], 1.0)]
RIVAL = [*run("nesterov", 0, [4.0, 1.0], 1.0), *run("nesterov", 1, [4.0, 4.0], 1.0)]
GAME = [*run("implicit-sgd", 0, [4.0, 1.0], 1.5), *run("implicit-sgd", 1, [4.0, 1.0], 1.5)]


def test_the_sentence_has_ratios_to_base_and_rival() -> None:
    """Losses 1/2 and 1/8, geometric mean 1/4; 1 and 1/4, mean 1/2.

    The base ends after 2 s, a third of the way from 1.5 s to 3 s: the loss is 4^(2/3), divided by 2
    and 8, with mean 4^(2/3) / 4 = 0.63.
    """
    (sentence,) = describe_findings(COMPARISON, [*BASE, *RIVAL, *GAME])
    assert sentence == (
        "Implicit-SGD ended with 0.25 times the training loss of SGD (lower in 2 of 2 seeds) and "
        "0.50 times the training loss of Nesterov (lower in 1 of 2 seeds); it took 1.50 times as "
        "long, and had 0.63 times the loss of SGD when that had finished."
    )


def test_a_small_ratio_has_a_digit() -> None:
    game = [*run("implicit-sgd", 0, [4.0, 0.004], 1.5), *run("implicit-sgd", 1, [4.0, 0.016], 1.5)]
    (sentence,) = describe_findings(COMPARISON, [*BASE, *RIVAL, *game])
    assert "ended with 0.002 times the training loss of SGD" in sentence


def test_the_table_has_the_loss_at_equal_time() -> None:
    base, rival, game = summarize_records([*BASE, *RIVAL, *GAME])
    assert (base.equal_time_loss, rival.equal_time_loss) == (pytest.approx(5.0), pytest.approx(2.5))
    assert game.equal_time_loss == pytest.approx(4 ** (2 / 3))
    assert (base.loss_error, game.loss_error) == (pytest.approx(3.0), 0.0)


def test_an_interrupted_run_is_described_with_what_it_has() -> None:
    """The second seed has no game, and the first one an epoch less than its base."""
    (sentence,) = describe_findings(COMPARISON, [*BASE, *RIVAL, *GAME[:1]])
    assert sentence == (
        "Implicit-SGD ended with 1.00 times the training loss of SGD (lower in 0 of 1 seeds) and "
        "1.00 times the training loss of Nesterov (lower in 0 of 1 seeds); it took 1.50 times as "
        "long."
    )
    first_epochs = [record for record in [*BASE, *GAME] if record.epoch == 1]
    late = [replace(r, seconds=0.5) if r.seed and r.method != "sgd" else r for r in first_epochs]
    (sentence,) = describe_findings(COMPARISON, late)
    assert "when that had finished" not in sentence  # the first seed has no loss to compare
    assert describe_findings(COMPARISON, BASE) == []
    assert describe_findings(COMPARISON, []) == []


def test_losses_that_are_not_finite_are_counted_but_not_averaged() -> None:
    """A run that diverged is beaten by every other one."""
    lost = [*run("sgd", 0, [4.0, math.nan], 1.0), *run("sgd", 1, [4.0, math.inf], 1.0)]
    (sentence,) = describe_findings(COMPARISON, [*lost, *GAME])
    assert "a training loss that cannot be divided by that of SGD (lower in 2 of 2" in sentence
    (sentence,) = describe_findings(COMPARISON, [*BASE[:2], *lost[2:], *GAME])
    assert "0.50 times the training loss of SGD (lower in 2 of 2 seeds)" in sentence


def test_loss_at_a_time() -> None:
    epochs = run("sgd", 0, [4.0, 1.0], 1.0)
    assert [loss_at_time(epochs, time) for time in (1.0, 1.5, 2.0, 9.0)] == [
        pytest.approx(loss) for loss in (4.0, 2.0, 1.0, 1.0)
    ]
    assert math.isnan(loss_at_time(epochs, 0.5))
