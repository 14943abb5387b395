"""Run studies and write their report: `report.md`, `report.json` and pictures."""

import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import gtddp_jax as gt
from gtddp_lab.core.files import write_atomically
from gtddp_lab.core.look_up import look_up
from gtddp_lab.studies.section import StudyOptions, StudySection
from gtddp_lab.studies.studies import STUDIES


def run_studies(names: Sequence[str], options: StudyOptions) -> Path:
    """Run studies in order, and write the report after each.

    Runs whose results are already in the folder are not trained again.

    Args:
        names: Keys of `STUDIES`.
        options: Options of the studies.

    Returns:
        Path of the report, `options.out / "report.md"`.

    Raises:
        ValueError: If a name is unknown.
        DataError: If a data set is not available; the message says how to get it.
        OSError: If a file cannot be written.
    """
    studies = {name: look_up(STUDIES, name, "study") for name in names}
    options.out.mkdir(parents=True, exist_ok=True)
    sections: list[StudySection] = []
    seconds: dict[str, float] = {}
    for name, study in studies.items():
        start = time.perf_counter()
        options.say(f"{name} ...")
        sections.append(study(options))
        seconds[name] = time.perf_counter() - start
        # After each study, so that an interrupted command leaves a report.
        write_atomically(options.out / "report.md", _report_text(sections, seconds, options))
        write_atomically(options.out / "report.json", _report_data(sections, seconds, options))
    return options.out / "report.md"


def _origin_facts(options: StudyOptions) -> dict[str, Any]:
    return {
        "gtddp_jax": gt.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "quick": options.quick,
        "seeds": options.seeds,
        "datasets": list(options.datasets),
    }


def _report_text(
    sections: list[StudySection], seconds: dict[str, float], options: StudyOptions
) -> str:
    facts = _origin_facts(options)
    head = [
        "# Evidence, quick version" if options.quick else "# Evidence",
        f"gtddp_jax {facts['gtddp_jax']}, jax {facts['jax']}, {facts['device']}"
        + (": too few seeds and steps for conclusions." if options.quick else "."),
    ]
    parts = [
        f"## {section.title}\n\n{section.text}\n\n(`gtddp reproduce {section.name}`, "
        f"{seconds[section.name]:.0f} s)"
        for section in sections
    ]
    return "\n\n".join([*head, *parts]) + "\n"


def _report_data(
    sections: list[StudySection], seconds: dict[str, float], options: StudyOptions
) -> str:
    studies = {
        section.name: {
            "title": section.title,
            "seconds": seconds[section.name],
            "pictures": list(section.pictures),
            "data": section.data,
        }
        for section in sections
    }
    return json.dumps({**_origin_facts(options), "studies": studies}, indent=1, allow_nan=False)
