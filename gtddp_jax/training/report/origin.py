"""Configuration and provenance, as texts."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from gtddp_jax.training.report.collect import Run
from gtddp_jax.training.report.sources import plain


class Setting(NamedTuple):
    """A setting: its name, its value in every run, and whether the runs differ in it."""

    name: str
    values: list[str]
    differs: bool


class Start(NamedTuple):
    """One start of a run: pairs of a word and a text."""

    run: str
    facts: list[tuple[str, str]]


def settings(runs: Sequence[Run]) -> list[Setting]:
    """What was compared, setting by setting."""
    tables = [_flat(run) for run in runs]
    return [
        Setting(name, values, len(set(values)) > 1)
        for name in tables[0]
        for values in [[table[name] for table in tables]]
    ]


def _flat(run: Run) -> dict[str, str]:
    told = asdict(run.experiment)
    told |= told.pop("settings")
    told["games"] = [method.label for method in run.experiment.methods()]
    return {name.replace("_", " "): _text(value) for name, value in told.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return plain(", ".join(map(str, value)))
    return plain(f"{value:g}" if isinstance(value, float) else str(value))


def starts(runs: Sequence[Run]) -> list[Start]:
    """Where results come from: every start of every run."""
    return [
        Start(run.short, _facts(start))
        for run in runs
        for start in run.starts[-20:]  # a page is for people
    ]


def _facts(start: dict[str, Any]) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if "time" in start:
        facts.append(("time", _text(start["time"])))
    if isinstance(start.get("command"), list):
        facts.append(("command", plain(" ".join(map(str, start["command"])), 2000)))
    if "python" in start:
        facts.append(("Python", _text(start["python"])))
    if isinstance(start.get("packages"), dict):
        pairs = [f"{name} {version}" for name, version in start["packages"].items()]
        facts.append(("packages", plain(", ".join(pairs), 2000)))
    if isinstance(start.get("devices"), list):
        facts.append(("devices", _counted(start["devices"])))
    facts.append(("source", _source(start.get("git"))))
    return facts


def _counted(devices: Sequence[Any]) -> str:
    names = [plain(str(device)) for device in devices]
    return ", ".join(
        f"{names.count(name)} × {name}" if names.count(name) > 1 else name
        for name in dict.fromkeys(names)
    )


def _source(git: Any) -> str:
    if not isinstance(git, dict):
        return "not in a git repository"
    commit = plain(str(git.get("commit") or "no commit yet"), 60)
    changed = git.get("changed")
    if not isinstance(changed, list) or not changed:
        return f"commit {commit}, no changes"
    some = ", ".join(plain(str(path), 60) for path in changed[:5])
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return f"commit {commit}, changed: {some}{more}"
