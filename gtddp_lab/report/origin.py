"""Configuration and provenance of runs, as text."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from gtddp_lab.core.printing import printable_text
from gtddp_lab.report.collect import ReportedRun

MOST_SHOWN_STARTS = 20
"""Of a run with more starts, only the last ones are shown."""


class SettingRow(NamedTuple):
    """A setting: its name, its value in each run, and whether the runs differ in it."""

    name: str
    values: list[str]
    differs: bool


class StartFacts(NamedTuple):
    """One start of a run: pairs (term, text)."""

    run: str
    facts: list[tuple[str, str]]


def setting_rows(runs: Sequence[ReportedRun]) -> list[SettingRow]:
    """Return the settings of all runs, one row per setting."""
    tables = [_setting_texts(run) for run in runs]
    return [
        SettingRow(name, values, len(set(values)) > 1)
        for name in tables[0]
        for values in [[table[name] for table in tables]]
    ]


def _setting_texts(run: ReportedRun) -> dict[str, str]:
    setting_values = asdict(run.experiment)
    setting_values |= setting_values.pop("settings")
    setting_values["games"] = [method.label for method in run.experiment.methods()]
    return {name.replace("_", " "): _value_text(value) for name, value in setting_values.items()}


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return printable_text(", ".join(map(str, value)))
    return printable_text(f"{value:g}" if isinstance(value, float) else str(value))


def start_facts(runs: Sequence[ReportedRun]) -> list[StartFacts]:
    """Return the provenance of the last starts of every run."""
    return [
        StartFacts(run.short, _origin_facts(start))
        for run in runs
        for start in run.starts[-MOST_SHOWN_STARTS:]
    ]


def _origin_facts(start: dict[str, Any]) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if "time" in start:
        facts.append(("time", _value_text(start["time"])))
    if isinstance(start.get("command"), list):
        facts.append(("command", printable_text(" ".join(map(str, start["command"])), 2000)))
    if "python" in start:
        facts.append(("Python", _value_text(start["python"])))
    if isinstance(start.get("packages"), dict):
        pairs = [f"{name} {version}" for name, version in start["packages"].items()]
        facts.append(("packages", printable_text(", ".join(pairs), 2000)))
    if isinstance(start.get("devices"), list):
        facts.append(("devices", _device_counts(start["devices"])))
    facts.append(("source", _source_text(start)))
    return facts


def _device_counts(devices: Sequence[Any]) -> str:
    names = [printable_text(str(device)) for device in devices]
    return ", ".join(
        f"{names.count(name)} × {name}" if names.count(name) > 1 else name
        for name in dict.fromkeys(names)
    )


def _source_text(start: dict[str, Any]) -> str:
    source = start.get("source")
    if isinstance(source, dict):
        commit = source.get("commit")
        place = f"commit {printable_text(str(commit), 60)}" if commit else "not in a git checkout"
        return f"{place}, digest of the code {printable_text(str(source.get('digest')), 64)}"
    return _repository_text(start.get("git"))


def _repository_text(git: Any) -> str:
    """The state of the working directory's repository, which older versions recorded."""
    if not isinstance(git, dict):
        return "not in a git repository"
    commit = printable_text(str(git.get("commit") or "no commit yet"), 60)
    changed = git.get("changed")
    if not isinstance(changed, list) or not changed:
        return f"commit {commit}, no changes"
    # The first files suffice to recognise the change.
    some = ", ".join(printable_text(str(path), 60) for path in changed[:5])
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return f"commit {commit}, changed: {some}{more}"
