"""Run folders, and the provenance of results."""

import subprocess
from pathlib import Path

import pytest

from gtddp_lab.training.provenance import collect_provenance, git_state
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


def git(folder: Path, *arguments: str) -> None:
    name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(folder), *name, *arguments], check=True, capture_output=True)


def test_git_state(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert git_state(tmp_path) == {"commit": None, "changed": []}
    (tmp_path / "a.py").touch()
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "first")
    clean = git_state(tmp_path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["changed"] == []
    (tmp_path / "a.py").write_text("changed")
    (tmp_path / "b.py").touch()
    changed = git_state(tmp_path)
    assert changed is not None
    assert changed["changed"] == ["a.py", "b.py"]


def test_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_provenance_names_versions_and_devices() -> None:
    told = collect_provenance()
    assert told["packages"]["jax"]
    assert told["packages"]["orbax-checkpoint"]
    assert told["devices"]
