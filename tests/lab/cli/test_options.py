"""Choices of the command line, its help, and how tyro's errors become one line."""

from typing import get_args

import pytest

import gtddp_jax as gt
from gtddp_jax.sequential import ROLLOUTS
from gtddp_lab import data, networks
from gtddp_lab.cli import options
from gtddp_lab.cli.choices import table_names
from gtddp_lab.cli.main import main
from gtddp_lab.cli.options import BASE_GAME, TrainOptions
from gtddp_lab.cli.parse import COMMAND_OPTIONS, box_to_sentence, parse_command_line
from gtddp_lab.cli.setup import GAME_OPTIONS, build_experiment, fill_in_defaults
from gtddp_lab.studies import studies
from gtddp_lab.training import methods, recipes, settings
from tests.conftest import RunPython

BOX = """\
╭─ Value error ──────────────────────╮
│ Error parsing --rate: not a number │
│ at all.                            │
│                                    │
│ Got errors:                        │
│ ────────────────────────────────── │
│ For full helptext, see x --help    │
╰────────────────────────────────────╯
"""

PLAIN_BOX = """\
 Value error
 ------------------------------------
  Error parsing --rate: not a number
  at all.
  -----------------------------------
  For full helptext, see x --help
"""


@pytest.mark.parametrize(
    ("option_type", "table"),
    [
        (options.DatasetName, data.DATASETS),
        (options.NetworkName, networks.NETWORKS),
        (options.AugmentationName, data.AUGMENTATIONS),
        (options.ScheduleName, settings.SCHEDULES),
        (options.OptimizerName, methods.OPTIMIZERS),
        (options.RolloutName, ROLLOUTS),
        (options.TerminalName, gt.terminal.TERMINALS),
        (options.WeightingName, gt.weighting.WEIGHTINGS),
        (options.StudyName, studies.STUDIES),
    ],
)
def test_choices_are_the_names_in_the_tables(option_type: object, table: dict[str, object]) -> None:
    _, constructor = get_args(option_type)
    assert constructor.choices == tuple(table)


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(LookupError, match=r"gtddp_lab\.networks assigns no dict literal to NONE\."):
        table_names("gtddp_lab.networks", "NONE")
    with pytest.raises(LookupError, match=r"no_such_package is not installed\."):
        table_names("no_such_package.networks", "NETWORKS")


def test_every_data_set_has_a_recipe() -> None:
    assert tuple(recipes.RECIPES) == tuple(data.DATASETS)
    assert set(methods.RIVALS) | set(methods.RIVALS.values()) <= set(methods.OPTIMIZERS)
    for recipe in recipes.RECIPES.values():
        assert recipe.network in networks.NETWORKS
        assert recipe.augmentation in data.AUGMENTATIONS
        assert set(recipe.learning_rates) <= set(methods.OPTIMIZERS)


def test_games_are_those_of_the_table() -> None:
    assert (BASE_GAME, *options.GAMES) == tuple(methods.GAMES)
    assert set(GAME_OPTIONS) == set(options.GAMES)


def test_defaults() -> None:
    assert parse_command_line(["train"]) == TrainOptions()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("train", ["schedule_free", "nadam", "implicit-schedule_free"]),
        ("train --game sequential", ["nesterov", "sgd", "gtddp-nesterov"]),
        (
            "train --game sequential implicit",
            ["nesterov", "sgd", "gtddp-nesterov", "implicit-nesterov"],
        ),
        ("train --optimizer sgd", ["sgd", "nesterov", "implicit-sgd"]),
        ("train --optimizer adam", ["adam", "nadam", "implicit-adam"]),
        ("train --optimizer rmsprop --rival adam", ["rmsprop", "adam", "implicit-rmsprop"]),
        ("train --optimizer rmsprop", ["rmsprop", "implicit-rmsprop"]),
        ("train --rival none --game sequential", ["nesterov", "gtddp-nesterov"]),
        ("train --base-only", ["schedule_free"]),
    ],
)
def test_a_run_has_a_base_a_rival_and_games(line: str, names: list[str]) -> None:
    parsed = parse_command_line(line.split())
    assert isinstance(parsed, TrainOptions)
    experiment = build_experiment(fill_in_defaults(parsed))
    assert [method.name for method in experiment.methods()] == names
    assert experiment.seeds == (0, 1, 2)


def test_rates_of_a_data_set_precede_those_of_the_optimizer() -> None:
    rates = {
        (dataset, optimizer): fill_in_defaults(
            TrainOptions(dataset=dataset, optimizer=optimizer)
        ).learning_rate
        for dataset in ("digits", "mnist")
        for optimizer in ("nesterov", "adam", "schedule_free")
    }
    assert rates == {
        ("digits", "nesterov"): 0.1,
        ("digits", "adam"): 0.001,
        ("digits", "schedule_free"): 0.01,
        ("mnist", "nesterov"): 0.01,
        ("mnist", "adam"): 0.001,
        ("mnist", "schedule_free"): 0.003,
    }


def test_options_are_parsed() -> None:
    line = "train --optimizer sgd --base-only --learning-rate 0.1 --epochs 3 --seed-list 1 2"
    expected = TrainOptions(
        optimizer="sgd", base_only=True, learning_rate=0.1, epochs=3, seed_list=(1, 2)
    )
    assert parse_command_line(line.split()) == expected


def test_several_games_keep_their_order() -> None:
    parsed = parse_command_line(
        ["train", "--game", "implicit", "sequential", "--weighting", "exact"]
    )
    assert parsed == TrainOptions(game=("implicit", "sequential"), weighting="exact")


@pytest.mark.parametrize("box", [BOX, PLAIN_BOX])
def test_a_box_becomes_its_sentence(box: str) -> None:
    assert box_to_sentence(box) == "Error parsing --rate: not a number at all."


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["plot", "--help"]])
def test_help_imports_no_jax(run_python: RunPython, arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from gtddp_lab.cli.main import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as exit:\n"
        "    print('exit code', exit.code)\n"
        "heavy = {'jax', 'flax', 'optax', 'orbax', 'sklearn', 'matplotlib', 'numpy', 'yaml'}\n"
        "print('imported', sorted(heavy & set(sys.modules)))\n"
    )
    result = run_python("-c", code, timeout=20)
    assert result.returncode == 0, result.stderr
    assert "usage: gtddp" in result.stdout
    assert result.stdout.endswith("exit code 0\nimported []\n")


def test_help_lists_the_choices(run_python: RunPython) -> None:
    result = run_python("-m", "gtddp_lab", "train", "--help", timeout=60)
    assert result.returncode == 0
    assert "usage: gtddp train" in result.stdout
    assert "--weighting {sketch,full,exact}" in result.stdout


def test_help_names_the_studies_and_every_default(run_python: RunPython) -> None:
    for command in COMMAND_OPTIONS:
        result = run_python("-m", "gtddp_lab", command, "--help", timeout=60)
        assert result.returncode == 0
        assert "(default: )" not in result.stdout
        assert "(default: None)" not in result.stdout
        if command == "reproduce":
            assert all(study in result.stdout for study in studies.STUDIES)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gtddp {gt.__version__}\n"
