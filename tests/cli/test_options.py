"""The command line's own copy of names, its help, and how tyro's errors become one line."""

from typing import Any, get_args

import pytest

import gtddp_jax as gt
from gtddp_cli import options
from gtddp_cli.options import Train
from gtddp_cli.parse import one_line, parse
from gtddp_cli.setup import BASE, OWN_OPTIONS
from gtddp_jax.evidence import studies
from gtddp_jax.training import data, methods, networks, recipes, settings
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
    ("names", "table"),
    [
        (options.DatasetName, data.DATASETS),
        (options.NetworkName, networks.NETWORKS),
        (options.AugmentationName, data.AUGMENTATIONS),
        (options.ScheduleName, settings.SCHEDULES),
        (options.OptimizerName, methods.OPTIMIZERS),
        (options.RolloutName, settings.ROLLOUTS),
        (options.TerminalName, settings.TERMINALS),
        (options.WeightsName, gt.weights.WEIGHTS),
        (options.StudyName, studies.STUDIES),
    ],
)
def test_names_are_those_of_the_library(names: Any, table: Any) -> None:
    assert get_args(names) == tuple(table)


def test_every_data_set_has_a_recipe() -> None:
    assert tuple(recipes.RECIPES) == tuple(data.DATASETS)
    for usual in recipes.RECIPES.values():
        assert usual.network in networks.NETWORKS
        assert usual.augmentation in data.AUGMENTATIONS


def test_games_are_those_of_the_library() -> None:
    assert (BASE, *get_args(options.GameName)) == tuple(methods.GAMES)
    assert set(OWN_OPTIONS) == set(get_args(options.GameName))


def test_defaults() -> None:
    assert parse(["train"]) == Train()


def test_everything_can_be_said() -> None:
    line = "train --optimizer sgd --base-only --learning-rate 0.1 --epochs 3 --seed-list 1 2"
    expected = Train(optimizer="sgd", base_only=True, learning_rate=0.1, epochs=3, seed_list=(1, 2))
    assert parse(line.split()) == expected


def test_several_games_keep_their_order() -> None:
    options = parse(["train", "--game", "implicit", "sequential", "--weights", "trial"])
    assert options == Train(game=("implicit", "sequential"), weights="trial")


@pytest.mark.parametrize("box", [BOX, PLAIN_BOX])
def test_a_box_becomes_its_sentence(box: str) -> None:
    assert one_line(box) == "Error parsing --rate: not a number at all."


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["plot", "--help"]])
def test_help_comes_without_jax(run_python: RunPython, arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from gtddp_cli.main import main\n"
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


def test_the_module_is_the_command(run_python: RunPython) -> None:
    result = run_python("-m", "gtddp_jax", "train", "--help", timeout=60)
    assert result.returncode == 0
    assert "usage: gtddp train" in result.stdout
