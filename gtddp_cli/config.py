"""Options in YAML files: plain values by the options' names."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from gtddp_cli.errors import UsageError
from gtddp_cli.options import Train

NOT_KEPT = ("config", "resume")
"""Options that say where others come from; a configuration has none of them."""


def read_config(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Reads a configuration file.

    Args:
        path: The file.
        names: What options there are.

    Raises:
        UsageError: If it cannot be read, is no YAML mapping, or has an unknown key.
    """
    import yaml

    from gtddp_jax.training.files import MIB, read_whole  # needs jax, as all that follows it

    try:
        text = read_whole(path, MIB)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {path}: {reason}.") from error
    try:
        values = yaml.safe_load(text)
    except RecursionError as error:
        raise UsageError(f"{path} is not YAML: it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2020-99-99 is a ValueError
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold options by name, got a {type(values).__name__}.")
    known = [name for name in names if name not in NOT_KEPT]
    for key in values:
        if key not in known:
            raise UsageError(f"{path}: unknown option {key!r}. Known: {', '.join(known)}.")
        if not _is_plain(values[key]):
            raise UsageError(
                f"{path}: {key} must be a number, a word, true, false, null, or a list of numbers "
                "or words, none of which begins with --."
            )
    return values


def _is_plain(value: Any) -> bool:
    """Whether a value can be said on the command line without being taken for an option."""
    if isinstance(value, list):
        return all(
            not isinstance(entry, list) and entry is not None and _is_plain(entry)
            for entry in value
        )
    return isinstance(value, int | float | None) or (
        isinstance(value, str) and not value.startswith("--")
    )


def as_arguments(values: dict[str, Any]) -> list[str]:
    """The command line that says the same; null stands for the default."""
    arguments = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value is None or value is False:
            continue
        if value is True:
            arguments += [option]
        elif isinstance(value, list):
            arguments += [option, *map(str, value)]
        else:
            arguments += [option, str(value)]
    return arguments


def as_yaml(options: Train) -> str:
    """The options as a configuration file."""
    import yaml

    values = {
        field.name: _plain(getattr(options, field.name))
        for field in fields(Train)
        if field.name not in NOT_KEPT
    }
    return yaml.safe_dump(values, sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
