"""The quick version of the evidence, made anew when the site is built.

`gtddp reproduce --quick` writes a report and its pictures into `docs/quick/`, which is not kept in
the repository; the report is a page of the site. A study that fails fails the build. Runs that are
there already, from an earlier build, are not trained again.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = "quick"
TIMEOUT = 900
"""Seconds; it takes two minutes on two cores."""


def reproduce(app: Any) -> None:
    """Runs all studies in their quick version."""
    command = [sys.executable, "-m", "gtddp_jax", "reproduce", "--quick", "--out"]
    made = subprocess.run(
        [*command, str(Path(app.srcdir) / FOLDER)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if made.returncode:
        raise RuntimeError(f"gtddp reproduce --quick failed:\n{made.stdout}{made.stderr}")


def setup(app: Any) -> dict[str, Any]:
    """Registers the run before the pages are looked for."""
    app.connect("config-inited", lambda app, config: reproduce(app))
    return {"parallel_read_safe": True}
