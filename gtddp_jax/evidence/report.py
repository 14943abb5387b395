"""Studies into a folder: `report.md`, `report.json`, pictures."""

import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import gtddp_jax as gt
from gtddp_jax.evidence.section import Options, Section
from gtddp_jax.evidence.studies import STUDIES
from gtddp_jax.training.files import write_whole
from gtddp_jax.training.tables import look_up


def reproduce(names: Sequence[str], options: Options) -> Path:
    """Runs studies, in order, and writes the report after each.

    Runs that are in the folder already are not trained again.

    Args:
        names: Keys of `STUDIES`.
        options: What every study is given.

    Returns:
        The report, `options.out / "report.md"`.

    Raises:
        ValueError: If a name is unknown.
        DataError: If a data set is not there; the text says how to get it.
        OSError: If a file cannot be written.
    """
    studies = {name: look_up(STUDIES, name, "study") for name in names}
    options.out.mkdir(parents=True, exist_ok=True)
    sections: list[Section] = []
    seconds: dict[str, float] = {}
    for name, study in studies.items():
        start = time.perf_counter()
        options.say(f"{name} ...")
        sections.append(study(options))
        seconds[name] = time.perf_counter() - start
        write_whole(options.out / "report.md", _text(sections, seconds, options))
        write_whole(options.out / "report.json", _data(sections, seconds, options))
    return options.out / "report.md"


def _facts(options: Options) -> dict[str, Any]:
    return {
        "gtddp_jax": gt.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "quick": options.quick,
        "seeds": options.seeds,
        "datasets": list(options.datasets),
    }


def _text(sections: list[Section], seconds: dict[str, float], options: Options) -> str:
    facts = _facts(options)
    head = [
        "# Evidence, quick version" if options.quick else "# Evidence",
        f"gtddp_jax {facts['gtddp_jax']}, jax {facts['jax']}, {facts['device']}"
        + (": too few seeds and steps to conclude anything." if options.quick else "."),
    ]
    parts = [
        f"## {section.title}\n\n{section.text}\n\n(`gtddp reproduce {section.name}`, "
        f"{seconds[section.name]:.0f} s)"
        for section in sections
    ]
    return "\n\n".join([*head, *parts]) + "\n"


def _data(sections: list[Section], seconds: dict[str, float], options: Options) -> str:
    found = {
        section.name: {
            "title": section.title,
            "seconds": seconds[section.name],
            "pictures": list(section.pictures),
            "data": section.data,
        }
        for section in sections
    }
    return json.dumps({**_facts(options), "studies": found}, indent=1, allow_nan=False)
