"""Every number of a run has bounds, which its message names."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gtddp_jax as gt
from gtddp_lab.cli.main import main
from gtddp_lab.core.bounds import check_integer, check_real
from gtddp_lab.core.files import parse_json
from gtddp_lab.data import Feed
from gtddp_lab.training.checkpoints import check_keep_counts
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.methods import build_method
from gtddp_lab.training.runner import RunPlan
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.trainer import Trainer

NO_NUMBERS: tuple[Any, ...] = (True, False, "3", "1e3", None, [3], math.nan, 1 + 0j)
NO_INTEGERS = (*NO_NUMBERS, 3.0, math.inf, -1, 2**31, 10**40, 10**5000)
NO_FACTORS = (*NO_NUMBERS, -1.0, 1e-31, 1e31, 10**40, 10**5000, -math.inf)

REALS: dict[str, Callable[[Any], object]] = {
    "learning_rate": TrainSettings,
    "weight_decay": lambda value: TrainSettings(0.1, weight_decay=value),
    "max_shift": lambda value: TrainSettings(0.1, max_shift=value),
}
INTEGERS: dict[str, Callable[[Any], object]] = {
    "epochs": RunPlan,
    "log_every": lambda value: RunPlan(1, log_every=value),
    "watch": lambda value: RunPlan(1, watch=value),
    "keep": lambda value: check_keep_counts(value, 0),
    "keep_best": lambda value: check_keep_counts(1, value),
}


@pytest.mark.parametrize("name", REALS)
def test_factors_are_numbers_within_float32(name: str) -> None:
    for value in (1e-30, 1, 0.5, 1e30):
        REALS[name](value)
    for value in NO_FACTORS:
        if name == "max_shift" and type(value) in (int, float) and value > 1:
            continue  # has no upper limit
        with pytest.raises(ValueError, match=rf"^{name} must be (0 or )?a number from 1e-30 to "):
            REALS[name](value)
    TrainSettings(0.1, max_shift=math.inf, weight_decay=0)
    with pytest.raises(ValueError, match=r"learning_rate must be a number from 1e-30 to 1e\+30"):
        TrainSettings(0.0)


@pytest.mark.parametrize("name", INTEGERS)
def test_counts_are_whole_numbers(name: str) -> None:
    INTEGERS[name](1)
    for value in NO_INTEGERS:
        with pytest.raises(ValueError, match=rf"^{name} must be a whole number from [01] to \d+, "):
            INTEGERS[name](value)


def test_a_checkpoint_interval_may_be_left_out() -> None:
    assert RunPlan(1, checkpoint_every=None).checkpoint_every is None
    with pytest.raises(ValueError, match="checkpoint_every must be a whole number from 1 to"):
        RunPlan(1, checkpoint_every=0)


def test_experiments_bound_their_numbers(experiment: Experiment) -> None:
    for name, message in (
        ("epochs", "epochs must be a whole number from 1 to 1000000, got"),
        ("batch_size", "batch_size must be a whole number from 1 to 2147483647, got"),
    ):
        for value in NO_INTEGERS:
            with pytest.raises(ValueError, match=message):
                replace(experiment, **{name: value})
    for seed in (*NO_NUMBERS, 1.0, -1, 2**32):
        with pytest.raises(ValueError, match="a seed must be a whole number from 0 to 4294967295"):
            replace(experiment, seeds=(0, seed))
    with pytest.raises(ValueError, match="the number of seeds must be a whole number from 1 to 10"):
        replace(experiment, seeds=tuple(range(10_001)))
    replace(experiment, seeds=(0, 2**32 - 1))
    for name in ("normalise", "vmap_seeds"):
        with pytest.raises(ValueError, match=rf"{name} must be true or false, got 1\."):
            replace(experiment, **{name: 1})
    with pytest.raises(ValueError, match=r"self_response must be true or false, got 'no'\."):
        TrainSettings(0.1, self_response="no")  # type: ignore[arg-type]


def test_the_steps_of_a_run_are_counted_in_32_bits(tiny_net: gt.Network, tiny_feed: Feed) -> None:
    method, settings = build_method("plain_sgd", "none"), TrainSettings(0.1)
    message = (
        r"a run takes at most 2147483647 steps, which are counted in 32 bits; 2147483648 epochs of "
        r"1 batches are more\. Give fewer epochs or larger batches\."
    )
    with pytest.raises(ValueError, match=message):
        Trainer(method, tiny_net, tiny_feed, settings, batch_size=38, epochs=2**31)


def test_messages_show_any_value() -> None:
    with pytest.raises(ValueError, match=r"from 1 to 9, got 1e\+40\.$"):
        check_integer("n", 10**40, 1, 9)
    with pytest.raises(ValueError, match=r"from 1 to 9, got a number beyond 1e308\.$"):
        check_integer("n", 10**5000, 1, 9)
    with pytest.raises(ValueError, match=r"from 1 to inf \(no limit\), got nan\.$"):
        check_real("n", math.nan, 1, math.inf)
    with pytest.raises(ValueError) as error:
        check_integer("n", 1000 * "x", 1, 9)
    assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: 1000000000", "--seeds must be a whole number from 1 to 10000, got 1000000000."),
        ("epochs: 100000000000000000000000000000000", "to 1000000, got 1e+32."),
        ("epochs: 1e32", "Error parsing --epochs"),
        (
            "seed_list: [4294967296]",
            "a seed must be a whole number from 0 to 4294967295, got 4",
        ),
        ("learning_rate: .nan", "learning_rate must be a number from 1e-30 to 1e+30, got nan."),
        ("weight_decay: .inf", "weight_decay must be 0 or a number from 1e-30 to 1e+30, got inf."),
        ("watch: 99999999999", "watch must be a whole number from 0 to 2147483647, got 9999"),
        ("log_every: 99999999999", "log_every must be a whole number from 1 to 2147483647"),
        ("keep: 99999999999", "keep must be a whole number from 1 to 2147483647"),
        (
            "{epochs: 1000000, batch_size: 1437, patience: .nan, distributed: true}",
            "--patience ",
        ),
    ],
)
def test_a_configuration_cannot_ask_for_the_impossible(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    command = ["train", "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "runs")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e999", "1e999 is beyond the numbers of a computer"),
        ("-1e999", "-1e999 is beyond the numbers of a computer"),
        (31 * "9", "a whole number has 31 digits, more than 30"),
        (5000 * "9", "a whole number has 5000 digits, more than 30"),
        ("NaN", "NaN is no JSON number"),
    ],
)
def test_numbers_in_json_files(text: str, message: str) -> None:
    assert parse_json("[1e308, 123456789012345678901234567890, -1]")[2] == -1
    with pytest.raises(ValueError, match=message):
        parse_json(f'{{"a": [{text}]}}')
