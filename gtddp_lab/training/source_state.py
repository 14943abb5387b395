"""The source state of the packages: which code a run was started with.

No program is run for this. ``git status`` would run the programs that the configuration of a
repository names (``core.fsmonitor``, filters, hooks), and the folder in which a command is started
may come from a stranger. The commit is read from git's files; whether the code is that of the
commit is decided by a digest of the code itself.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gtddp_jax
import gtddp_lab
from gtddp_lab.core.files import MIB, read_text_file

HASH_PATTERN = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""The name of a commit, SHA-1 or SHA-256."""

REFERENCE_PATTERN = re.compile(r"refs/[\w./+@=-]+")
"""The name of a branch; ``..`` is excluded as well, as git does."""


def package_folders() -> tuple[Path, ...]:
    """The folders from which the packages are imported."""
    return tuple(Path(str(package.__file__)).parent for package in (gtddp_jax, gtddp_lab))


def source_state(packages: Sequence[Path] | None = None) -> dict[str, Any]:
    """The commit of the packages' checkout, and a digest of their code; runs no program.

    Args:
        packages: Folders of the packages; by default those that are imported.

    Returns:
        ``commit``: the commit that is checked out in the folder that holds the packages; None if
        that folder is not the root of a git checkout, or before the first commit. ``digest``: the
        result of `code_digest`.

    Example:
        >>> sorted(source_state())
        ['commit', 'digest']
    """
    packages = package_folders() if packages is None else packages
    roots = {package.resolve().parent for package in packages}
    # Only the root itself: a repository further up, such as one of the home, is not ours.
    commit = checked_out_commit(roots.pop()) if len(roots) == 1 else None
    return {"commit": commit, "digest": code_digest(packages)}


def code_digest(packages: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of all Python files; equal for equal code, anywhere."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            name = f"{package.name}/{path.relative_to(package).as_posix()}"
            content = path.read_bytes() if path.is_file() else b""
            # Lengths separate the parts, so that nothing can move from one file to another.
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def checked_out_commit(root: Path) -> str | None:
    """The commit that is checked out in a folder, from git's own files.

    Returns:
        A hash; None if the folder is not the root of a checkout, or its files are not understood.
    """
    try:
        git = root / ".git"
        if git.is_file():  # of a linked worktree: names the folder that holds its HEAD
            git = root / read_text_file(git, MIB).removeprefix("gitdir:").strip()
        head = read_text_file(git / "HEAD", MIB).strip()
        if HASH_PATTERN.fullmatch(head):
            return head
        name = head.removeprefix("ref:").strip()
        if not REFERENCE_PATTERN.fullmatch(name) or ".." in name:
            return None
        return _reference_commit(git, name)
    except (OSError, ValueError):
        return None


def _reference_commit(git: Path, name: str) -> str | None:
    """The commit of a branch, from a file of its own or from the list of packed ones."""
    # Branches of a linked worktree lie in the folder of the main one.
    common = git / "commondir"
    shared = git / read_text_file(common, MIB).strip() if common.is_file() else git
    own_file, packed = shared / name, shared / "packed-refs"
    if own_file.is_file():
        commit = read_text_file(own_file, MIB).strip()
        return commit if HASH_PATTERN.fullmatch(commit) else None
    if packed.is_file():
        for line in read_text_file(packed, 64 * MIB).splitlines():
            commit, _, reference = line.partition(" ")
            if reference == name and HASH_PATTERN.fullmatch(commit):
                return commit
    return None
