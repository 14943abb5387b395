"""Nothing that a stranger's folder holds is run: no program, no module, no settings of matplotlib.

Each attack is armed first: a test shows that it works on whoever does not take care.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gtddp_lab.training.provenance import collect_provenance
from gtddp_lab.training.source_state import checked_out_commit, code_digest, source_state
from tests.conftest import child_environment

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.org")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *IDENTITY, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit that holds a package."""
    root = tmp_path / "checkout"
    (root / "package").mkdir(parents=True)
    (root / "package" / "code.py").write_text("x = 1\n")
    git(root, "init", "--initial-branch", "main")
    git(root, "add", ".")
    git(root, "commit", "-m", "first")
    return root


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Exists as soon as an attack has been run."""
    return tmp_path / "marker"


def arm_repository(root: Path, marker: Path) -> None:
    """Names a program in every place in which git looks for one."""
    program = marker.with_name("program")
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    included = root / ".git" / "included"
    included.write_text(f"[core]\n\tfsmonitor = {program}\n")
    settings = {
        "core.fsmonitor": program,
        "core.hooksPath": root / "hooks",
        "core.pager": program,
        "core.sshCommand": program,
        "diff.external": program,
        "filter.evil.clean": program,
        "filter.evil.process": program,
        "alias.status": f"!{program}",
        "include.path": included,
    }
    for name, value in settings.items():
        git(root, "config", name, str(value))
    (root / ".gitattributes").write_text("* filter=evil\n")
    (root / "hooks").mkdir()
    shutil.copy(program, root / "hooks" / "post-index-change")


def test_the_attack_works_on_git_itself(checkout: Path, marker: Path) -> None:
    arm_repository(checkout, marker)
    subprocess.run(["git", "-C", str(checkout), "status"], capture_output=True, check=False)
    assert marker.exists()


def test_a_hostile_working_directory(
    checkout: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm_repository(checkout, marker)
    monkeypatch.chdir(checkout)
    start = collect_provenance()
    assert not marker.exists()
    assert str(checkout) not in str(start["source"])
    assert start["source"]["commit"] != git_head(checkout)


def git_head(root: Path) -> str:
    return (root / ".git" / "refs" / "heads" / "main").read_text().strip()


def test_a_hostile_checkout_of_the_package(checkout: Path, marker: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    arm_repository(checkout, marker)
    assert source_state([checkout / "package"])["commit"] == commit
    assert not marker.exists()


def test_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"started {arguments}")

    for module, name in ((subprocess, "Popen"), (os, "posix_spawn"), (os, "system"), (os, "fork")):
        monkeypatch.setattr(module, name, refuse)
    with pytest.raises(AssertionError, match="started"):
        subprocess.run(["git"], check=False)
    collect_provenance()


def test_the_commit_of_every_kind_of_checkout(checkout: Path, tmp_path: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert checked_out_commit(checkout) == commit
    git(checkout, "pack-refs", "--all")
    assert not (checkout / ".git" / "refs" / "heads" / "main").exists()
    assert checked_out_commit(checkout) == commit
    git(checkout, "worktree", "add", "-b", "side/one", str(tmp_path / "linked"))
    git(tmp_path / "linked", "commit", "--allow-empty", "-m", "second")
    second = git(tmp_path / "linked", "rev-parse", "HEAD")
    assert checked_out_commit(tmp_path / "linked") == second != commit
    git(checkout, "checkout", "--detach", second)
    assert checked_out_commit(checkout) == second


def test_folders_that_are_no_checkout(checkout: Path, tmp_path: Path) -> None:
    assert checked_out_commit(checkout / "package") is None  # inside, but not the root
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init")
    assert checked_out_commit(tmp_path / "new") is None  # before the first commit
    other = tmp_path / "other" / "package"
    other.mkdir(parents=True)
    assert source_state([checkout / "package", other])["commit"] is None  # of two places


@pytest.mark.parametrize(
    "head",
    [
        "ref: ../secret",
        "ref: refs/heads/../../../secret",
        "ref: refs/heads/secret",
        "ref: refs/heads/folder",
        "0" * 39,
        "\udcff",
        "ref: " + 2_000_000 * "x",
    ],
    ids=lambda head: head[:20].encode("ascii", "replace").decode(),
)
def test_damaged_files_of_git_are_not_understood(checkout: Path, tmp_path: Path, head: str) -> None:
    for secret in (tmp_path / "secret", checkout / ".git" / "refs" / "heads" / "secret"):
        secret.write_text("password")
    (checkout / ".git" / "refs" / "heads" / "folder").mkdir()
    (checkout / ".git" / "HEAD").write_text(head, errors="surrogateescape")
    assert checked_out_commit(checkout) is None


def test_a_pipe_in_place_of_a_file_does_not_block(checkout: Path) -> None:
    (checkout / ".git" / "HEAD").unlink()
    os.mkfifo(checkout / ".git" / "HEAD")
    os.mkfifo(checkout / "package" / "pipe.py")
    assert source_state([checkout / "package"])["commit"] is None


def test_the_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "part").mkdir(parents=True)
    (package / "b.py").write_bytes(b"two")
    (package / "a.py").write_bytes(b"")
    (package / "part" / "c.py").write_bytes(b"3")
    (package / "data.txt").write_bytes(b"not code")
    content = b"package/a.py\x000\x00package/b.py\x003\x00twopackage/part/c.py\x001\x003"
    assert code_digest([package]) == hashlib.sha256(content).hexdigest()
    first = source_state([package])["digest"]
    (package / "data.txt").write_bytes(b"other")
    assert source_state([package])["digest"] == first
    (package / "b.py").write_bytes(b"TWO")
    assert source_state([package])["digest"] != first


def in_folder(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[3])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**child_environment(), "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path, marker: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("numpy", "tyro", "yaml", "jax", "rich"):
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\nraise SystemExit(7)\n")
    assert in_folder(folder, "-m", "tyro").returncode == 7
    marker.unlink()
    result = in_folder(folder, "-m", "gtddp_lab", "plot", "absent")
    assert (result.returncode, result.stderr.splitlines()[-1:]) == (
        2,
        ["gtddp: cannot read absent/results.json: No such file or directory."],
    )
    assert not marker.exists()


LOAD = "from gtddp_lab.core.drawing import load_matplotlib; load_matplotlib();"
SHOW = "import os, matplotlib; print(os.getcwd(), matplotlib.rcParams['text.usetex'])"


def test_settings_of_matplotlib_in_the_working_directory_are_ignored(tmp_path: Path) -> None:
    settings = tmp_path / "matplotlibrc"
    settings.write_text("text.usetex: True\n")
    assert in_folder(tmp_path, "-c", SHOW).stdout == f"{tmp_path} True\n"
    assert in_folder(tmp_path, "-c", LOAD + SHOW).stdout == f"{tmp_path} False\n"
    settings.unlink()
    os.mkfifo(settings)  # would block for ever
    assert in_folder(tmp_path, "-c", LOAD + SHOW).stdout == f"{tmp_path} False\n"
