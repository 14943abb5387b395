"""The quick version of the evidence, regenerated when the site is built.

`gtddp reproduce --quick` writes a report and its pictures into `docs/quick/`, which is not kept in
the repository; the report is a page of the site. If a study fails, the build fails. Runs that exist
from an earlier build are not trained again. With `-D run_quick_studies=0` nothing is trained, and
the page says so.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = "quick"
WITHOUT = "# Quick studies\n\nThis site was built without them.\n"
TIMEOUT = 900
"""Seconds; it takes two minutes on two cores."""


def run_quick_studies(app: Any) -> None:
    """Run all studies in their quick version, unless that is switched off."""
    if not app.config.run_quick_studies:
        page = Path(app.srcdir) / FOLDER / "report.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(WITHOUT, encoding="utf-8")
        return
    command = [sys.executable, "-m", "gtddp_lab", "reproduce", "--quick", "--out"]
    result = subprocess.run(
        [*command, str(Path(app.srcdir) / FOLDER)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"gtddp reproduce --quick failed:\n{result.stdout}{result.stderr}")


def setup(app: Any) -> dict[str, Any]:
    """Register the run before Sphinx collects the pages."""
    app.add_config_value("run_quick_studies", True, "env", bool)
    app.connect("config-inited", lambda app, config: run_quick_studies(app))
    return {"parallel_read_safe": True}
