"""Options in YAML files: plain values, keyed by the names of the options."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from gtddp_lab.cli.cli_errors import UsageError
from gtddp_lab.cli.options import TrainOptions
from gtddp_lab.core.files import MIB, read_text_file

NOT_SAVED = ("config", "resume")
"""Options that name the source of other options; a configuration file holds neither."""


def read_config(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Reads a configuration file.

    Args:
        path: The file.
        names: Names of all options.

    Raises:
        UsageError: If the file cannot be read, is no YAML mapping, or has an unknown key.
    """
    import yaml

    try:
        text = read_text_file(path, MIB)
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
    known = [name for name in names if name not in NOT_SAVED]
    for name in values:
        if name not in known:
            raise UsageError(f"{path}: unknown option {name!r}. Known: {', '.join(known)}.")
        if not _is_plain(values[name]):
            raise UsageError(
                f"{path}: {name} must be a number, a word, true, false, null, or a list of numbers "
                "or words, none of which begins with --."
            )
    return values


def _is_plain(value: Any) -> bool:
    """Whether a value can be written on the command line without being parsed as an option."""
    if isinstance(value, list):
        return all(
            not isinstance(entry, list) and entry is not None and _is_plain(entry)
            for entry in value
        )
    return isinstance(value, int | float | None) or (
        isinstance(value, str) and not value.startswith("--")
    )


def values_as_arguments(values: dict[str, Any]) -> list[str]:
    """Returns the equivalent command line; null and false stand for the default."""
    # tyro then parses and checks the values of a file exactly like those of the command line.
    arguments: list[str] = []
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


def options_as_yaml(options: TrainOptions) -> str:
    """Returns the options as the text of a configuration file."""
    import yaml

    values = {
        field.name: _plain_value(getattr(options, field.name))
        for field in fields(TrainOptions)
        if field.name not in NOT_SAVED
    }
    return yaml.safe_dump(values, sort_keys=False)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
