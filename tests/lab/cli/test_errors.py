"""Wrong command lines: one clear line on stderr, exit code 2, nothing written."""

from pathlib import Path

import pytest

from gtddp_lab.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of {train, eval, plot, report, reproduce, data}"),
        (["train", "--learn"], "Unrecognized options: --learn"),
        (["train", "--optim", "adam"], "Unrecognized options: --optim"),
        (["train", "--optimizer", "adagrad"], "invalid choice 'adagrad' for argument"),
        (["train", "--dataset", "emnist"], "invalid choice 'emnist' for argument"),
        (["train", "--rollout", "cubic"], "invalid choice 'cubic' for argument"),
        (["train", "--terminal", "plane"], "invalid choice 'plane' for argument"),
        (["train", "--learning-rate", "fast"], "Error parsing --learning-rate"),
        (
            ["train", "--learning-rate", "-0.1"],
            "learning_rate must be a number from 1e-30",
        ),
        (
            ["train", "--game", "sequential", "--max-shift", "-1"],
            "max_shift must be a number from 1e-30 to",
        ),
        (["train", "--devices", "99"], "devices must be from 1 to "),
        (["train", "--process-id", "0"], "go together: give all three, or none under Slurm"),
        (["train", "--distributed", "--patience", "0"], "--patience must be a number from 0.001"),
        (
            ["train", "--coordinator", "here", "--num-processes", "2", "--process-id", "0"],
            "coordinator must be host:port, got 'here'.",
        ),
        (["train", "--epochs", "0"], "epochs must be a whole number from 1 to 1000000, got 0."),
        (["train", "--batch-size", "0"], "batch_size must be a whole number from 1"),
        (["train", "--batch-size", "1438"], "batch_size must be from 1 to 1437"),
        (["train", "--seeds", "0"], "--seeds must be a whole number from 1 to 10000, got 0."),
        (["train", "--seeds", "0", "1"], "Unrecognized options: 1"),
        (["train", "--seeds", "2", "--seed-list", "5"], "(which) exclude each other"),
        (["train", "--seed-list", "1", "1"], "seeds must be different, got 1, 1."),
        (["train", "--schedule", "linear"], "invalid choice 'linear' for argument"),
        (["train", "--network", "vgg"], "invalid choice 'vgg' for argument"),
        (["train", "--weight-decay", "-1"], "weight_decay must be 0 or a number from"),
        (["train", "--keep", "0"], "keep must be a whole number from 1 to"),
        (["train", "--checkpoint-every", "0"], "checkpoint_every must be a whole number from 1"),
        (["train", "--log-every", "0"], "log_every must be a whole number from 1 to"),
        (["train", "--config", "absent.yaml"], "cannot read absent.yaml: No such file"),
        (["train", "--resume", "absent"], "absent is not the folder of a run"),
        (["eval", "absent"], "absent is not the folder of a run"),
        (["plot", "absent"], "cannot read absent/results.json: No such file"),
        (["train", "--game", "cubic"], "invalid choice 'cubic' for argument"),
        (["train", "--game"], "--game needs one or more different names of sequential, implicit."),
        (["train", "--game", "implicit", "implicit"], "--game needs one or more different names"),
        (["train", "--game", "sequential", "--base-only"], "--base-only and --game exclude each"),
        (
            ["train", "--rival", "schedule_free"],
            "rival must be another optimizer than schedule_free.",
        ),
        (["train", "--optimizer", "kfac"], "The implicit game has no form of kfac. Supported: sgd"),
        (["train", "--rival", "adagrad"], "invalid choice 'adagrad' for argument"),
        (["train", "--base-only", "--rival", "sgd"], "--base-only and --rival exclude each other."),
        (
            ["train", "--game", "implicit", "--weighting", "all"],
            "invalid choice 'all' for argument",
        ),
        (
            ["train", "--game", "sequential", "--weighting", "exact"],
            "--weighting belongs to --game implicit, which is not",
        ),
        (
            ["train", "--game", "implicit", "--rollout", "nonlinear"],
            "--rollout belongs to --game sequential, which is not run.",
        ),
        (
            ["train", "--game", "implicit", "--max-shift", "2"],
            "--max-shift belongs to --game sequential, which is not run.",
        ),
    ],
)
def test_wrong_values(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("gtddp: ")
    assert message in output.err
    assert output.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["train", "--out", str(tmp_path / "file" / "runs")]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("gtddp: cannot write to ")
    assert output.err.count("\n") == 1


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gtddp_lab.cli.main.EXTRA_MODULES", ("rich", "no_such_module"))
    assert main(["train"]) == 2
    expected = (
        "gtddp: no_such_module not found. Run in the project's folder: pip install -e '.[train]'\n"
    )
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("arguments", [["--help"], ["train", "-h"]])
def test_help_without_the_extra(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gtddp_lab.cli.main.EXTRA_MODULES", ("no_such_module",))
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.startswith("usage: gtddp [-h] [--version] {train,eval,plot,report,")
    assert output.out.endswith("pip install -e '.[train]'\n")


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tarin"]) == 2
    expected = (
        "gtddp: unknown command 'tarin'. Commands: train, eval, plot, report, reproduce, data. "
        "See gtddp --help.\n"
    )
    assert capsys.readouterr().err == expected
