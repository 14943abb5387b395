"""Manipulated files of a run are refused in one line, and no other file is read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gtddp_lab.cli.cli_errors import UsageError
from gtddp_lab.cli.config import read_config
from gtddp_lab.core.json_types import check_type, dataclass_from_json
from gtddp_lab.data import store
from gtddp_lab.data.dataset import DataError
from gtddp_lab.training import results
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.run_folder import RunFolderError, existing_folder

BOMB = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]",
        *(f"a{i}: &a{i} [{', '.join(9 * [f'*a{i - 1}'])}]" for i in range(1, 30)),
        "epochs: *a29",
    ]
)
"""A file that expands to 9**30 words."""

CONFIGS = {
    "an alias bomb": (BOMB, "unknown option 'a0'"),
    "a bomb as an option": (BOMB.replace("a0: &a0", "seeds: &a0"), "unknown option 'a1'"),
    "nested lists": ("seeds: &a [[1, 2], [3]]", "seeds must be a number, a word"),
    "a mapping": ("seeds: {a: 1}", "seeds must be a number, a word"),
    "an option in a word": ("network: --out=/", "none of which begins with --"),
    "an option in a list": ("game: [none, --resume, x]", "none of which begins with --"),
    "bytes": ("seeds: !!binary aGVsbG8=", "seeds must be a number, a word"),
    "a date": ("seeds: 2020-01-01", "seeds must be a number, a word"),
    "a date that is none": ("seeds: 2020-99-99", "is not YAML: month must be in 1..12"),
    "a tag": ("seeds: !!python/name:os.system", "could not determine a constructor"),
    "nested without end": ("seeds: " + 20_000 * "[", "nested too deeply"),
    "too large": ("#" * 2_000_000, "larger than 1 MiB"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(name: str, tmp_path: Path) -> None:
    text, message = CONFIGS[name]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_config(path, ("seeds", "network", "game", "epochs"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_configuration_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is not an ordinary file"):
        read_config(tmp_path, ("seeds",))


Edit = Callable[[dict[str, Any]], Any]


def at(*path: Any, value: Any) -> Edit:
    """Sets one entry of a document."""

    def edit(content: dict[str, Any]) -> None:
        *way, last = path
        place: Any = content
        for step in way:
            place = place[step]
        place[last] = value

    return edit


RESULTS: dict[str, tuple[Edit, str]] = {
    "a number as text": (at("epochs", 0, "epoch", value="1"), "epoch is str, int is needed"),
    "a truth value": (at("epochs", 0, "seed", value=True), "seed is bool, int is needed"),
    "a loss that is a list": (
        at("epochs", 0, "train_loss", value=[1.0]),
        "train_loss is list, float is needed",
    ),
    "a report that is a list": (at("epochs", 0, "report", value=[]), "report is list"),
    "a figure that is text": (at("epochs", 0, "report", "x", value="<b>"), "report is dict"),
    "a further field": (at("epochs", 0, "pickle", value=""), "EpochRecord has no 'pickle'"),
    "an epoch that is a number": (at("epochs", value=[1]), "EpochRecord is int"),
    "epochs that are a number": (at("epochs", value=1), "is not a results file"),
    "a missing field": (at("epochs", value=[{"method": "a"}]), "missing 8 required"),
    "an unknown network": (at("experiment", "network", value="../x"), "Invalid network: '../x'"),
    "a rate as text": (
        at("experiment", "settings", "learning_rate", value="1"),
        "learning_rate is str, float is needed",
    ),
    "seeds that are text": (at("experiment", "seeds", value="12"), "seeds is tuple"),
    "another format": (at("format", value=1e999), "is not a results file"),
    "a status that is a list": (at("status", value=["finished"]), "status is list, str is needed"),
    "starts that are a number": (at("starts", value=3), "starts is int"),
    "a list where the document is": (lambda content: [content], "is not a results file"),
}


@pytest.fixture
def written(tmp_path: Path, experiment: Experiment, records: list[EpochRecord]) -> Path:
    path = tmp_path / "results.json"
    results.write_json(
        path, results.results_document(experiment, records[:1], {"adam": 1.0}, "finished")
    )
    return path


@pytest.mark.parametrize("name", RESULTS)
def test_results(name: str, written: Path) -> None:
    edit, message = RESULTS[name]
    content = json.loads(written.read_text())
    other = edit(content)
    written.write_text(json.dumps(content if other is None else other))
    with pytest.raises(results.ResultsError) as error:
        results.read_results(written)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_results_beyond_json(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written.read_text()
    for text, message in (
        (whole.replace('"epoch": 1', '"epoch": NaN'), "NaN is no JSON number"),
        (whole.replace('"epoch": 1', '"epoch": -Infinity'), "-Infinity is no JSON number"),
        (100_000 * "[", "nested too deeply"),
        (whole.replace('"epoch": 1', '"epoch": ' + 5000 * "9"), "is not a results file"),
        ("\udcff", "it is not text"),
    ):
        written.write_text(text, errors="surrogateescape")
        with pytest.raises(results.ResultsError, match=message):
            results.read_results(written)
    monkeypatch.setattr(results, "RESULTS_LIMIT", 2**20)
    written.write_text("[" + 300_000 * "1.0, " + "1]")
    with pytest.raises(results.ResultsError, match="larger than 1 MiB"):
        results.read_results(written)


@pytest.mark.parametrize("part", ["checkpoints", "metrics.jsonl", "tensorboard/a", "results.json"])
def test_links_out_of_a_run_are_refused(part: str, tmp_path: Path) -> None:
    """Otherwise their targets would be read, appended to, or deleted by orbax."""
    (tmp_path / "elsewhere").mkdir()
    run = tmp_path / "run"
    (run / part).parent.mkdir(parents=True)
    (run / "config.yaml").touch()
    existing_folder(run)
    (run / "inside").symlink_to("config.yaml")
    existing_folder(run)
    (run / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match=rf"{part} is a link out of the run's folder"):
        existing_folder(run)


@pytest.mark.parametrize("part", ["metrics.jsonl", "checkpoints/adam/seed-0/1/meta", "curves.png"])
def test_pipes_in_a_run_are_refused(part: str, tmp_path: Path) -> None:
    """Otherwise opening them would wait for a writer, for ever."""
    (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "config.yaml").touch()
    existing_folder(tmp_path)
    os.mkfifo(tmp_path / part)
    message = rf"{part} is neither a file nor a folder; no run writes such an entry\. Remove it"
    with pytest.raises(RunFolderError, match=message):
        existing_folder(tmp_path)


def test_a_pipe_in_place_of_results(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "results.json")
    with pytest.raises(results.ResultsError, match="it is not an ordinary file"):
        results.read_results(tmp_path / "results.json")


def test_a_run_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    (tmp_path / "link").symlink_to("run")
    existing_folder(tmp_path / "link")


@pytest.mark.parametrize("text", ["[", "[true]", '{"original": 1}', "{}", '{"original": NaN}'])
def test_damaged_origin_files_are_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "prepared_folder", lambda name, data_dir: data_dir)
    (tmp_path / store.ORIGIN_FILE).write_text(text)
    with pytest.raises(DataError, match=r"cannot be read .* Prepare the data set again"):
        store.describe_prepared("mnist", tmp_path)


def test_json_values_are_checked_against_types() -> None:
    for kind, value in (
        (float, 1),
        (int | None, None),
        (tuple[str, ...], ("a",)),
        (dict[str, list[int]], {"a": [1]}),
        (dict[str, Any], {"a": object()}),
    ):
        check_type(kind, value, "it")
    for kind, value in (
        (int, 1.0),
        (int, True),
        (float, False),
        (int | None, "1"),
        (tuple[str, ...], ["a"]),
        (dict[str, list[int]], {"a": [1.0]}),
        (dict[str, int], {1: 1}),
    ):
        with pytest.raises(ValueError, match=r"it is .* is needed"):
            check_type(kind, value, "it")
    with pytest.raises(ValueError, match="EpochRecord is list"):
        dataclass_from_json(EpochRecord, [])
