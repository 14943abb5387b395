"""Run folders, and the provenance of results."""

from pathlib import Path

import pytest

from gtddp_lab.training.provenance import collect_provenance
from gtddp_lab.training.records import TrainingUnit
from gtddp_lab.training.run_folder import RunFolder, RunFolderError, existing_folder, new_folder


def test_every_run_has_its_own_folder(tmp_path: Path) -> None:
    folders = {new_folder(tmp_path / "runs", "digits-adam").path for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.name.startswith("digits-adam-") for folder in folders)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot write to "):
        new_folder(tmp_path / "file" / "runs", "digits")


def test_a_folder_without_a_configuration_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not the folder of a run"):
        existing_folder(tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(RunFolderError, match="another process is writing"),
        RunFolder(tmp_path).locked(),
    ):
        pass
    with RunFolder(tmp_path).locked():  # free again
        pass


def test_every_unit_has_its_own_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    places = {
        folder.checkpoint_folder(TrainingUnit(method, seeds))
        for method in ("adam", "gtddp-adam")
        for seeds in ((0,), (1,), (0, 1))
    }
    assert len(places) == 6


def test_provenance_names_versions_and_devices() -> None:
    told = collect_provenance()
    assert told["packages"]["jax"]
    assert told["packages"]["orbax-checkpoint"]
    assert told["devices"]
    assert len(told["source"]["digest"]) == 64
