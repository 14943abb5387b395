"""Configuration files, and options that override them."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from gtddp_lab.cli.cli_errors import UsageError
from gtddp_lab.cli.config import NOT_SAVED, options_as_yaml
from gtddp_lab.cli.options import CHANGEABLE_ON_RESUME, TrainOptions
from gtddp_lab.cli.parse import parse_command_line

FULL = TrainOptions(
    optimizer="sgd",
    game=("implicit", "sequential"),
    learning_rate=1e-3,
    schedule="cosine",
    epochs=7,
    seed_list=(3, 5),
    max_shift=float("inf"),
    weighting="exact",
    data_dir=Path("some where"),
    vmap_seeds=True,
)


@pytest.mark.parametrize(
    "options", [TrainOptions(), FULL, TrainOptions(base_only=True, weight_decay=1e-4)]
)
def test_written_options_are_read_back(tmp_path: Path, options: TrainOptions) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(options_as_yaml(options))
    assert parse_command_line(["train", "--config", str(path)]) == replace(options, config=path)


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 7\nlearning_rate: 1e-2  # YAML reads this as text\nseeds: 2\n")
    options = parse_command_line(["train", "--epochs", "3", "--config", str(path)])
    assert options == TrainOptions(config=path, epochs=3, learning_rate=0.01, seeds=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown option 'epoch'. Known: dataset, "),
        ("resume: runs/a", "unknown option 'resume'"),
        ("epochs: many", "config.yaml: Error parsing --epochs"),
        ("optimizer: adagrad", "config.yaml: invalid choice 'adagrad'"),
        ("- epochs", "must hold options by name, got a list"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        parse_command_line(["train", "--config", str(path)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="it is not text"):
        parse_command_line(["train", "--config", str(tmp_path / "config.yaml")])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(options_as_yaml(FULL))
    return tmp_path


def test_resuming_keeps_the_options(run: Path) -> None:
    assert parse_command_line(["train", "--resume", str(run)]) == replace(FULL, resume=run)


def test_options_without_effect_on_the_result_may_change(run: Path) -> None:
    options = parse_command_line(
        ["train", "--resume", str(run), "--epochs", "9", "--log-every", "5"]
    )
    assert options == replace(FULL, resume=run, epochs=9, log_every=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adam"], "--optimizer cannot change with --resume: the run has sgd"),
        (["--seeds", "4"], "--seeds cannot change with --resume"),
        (["--config", "other.yaml"], "--resume and --config exclude each other"),
    ],
)
def test_options_that_change_the_result_are_refused(
    run: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        parse_command_line(["train", "--resume", str(run), *arguments])


def test_names_of_options() -> None:
    assert {*NOT_SAVED, *CHANGEABLE_ON_RESUME} <= {field.name for field in fields(TrainOptions)}
