"""Finished runs as JSON files, one each, named by what determines them."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gtddp_lab.core.files import MIB, parse_json, read_text_file, write_atomically
from gtddp_lab.core.json_types import check_type
from gtddp_lab.studies.joint.methods import StudiedMethod
from gtddp_lab.studies.joint.problem import ResidualProblem
from gtddp_lab.studies.joint.training import Moment, ResidualRun, train_on_residuals

STORE_FORMAT = 1
"""Raised when the meaning of a stored run or of a problem changes."""

STORE_LIMIT = 16 * MIB
"""Largest stored run that is read."""


class RunStore:
    """Trains runs, or reads them if they were trained before.

    Args:
        folder: of the files.
        say: prints one line of progress.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say

    def run(
        self,
        name: str,
        problem: ResidualProblem,
        method: StudiedMethod,
        seed: int,
        seconds: float,
        least_steps: int = 0,
    ) -> ResidualRun:
        """The run of a method on the problem of that name, see `train_on_residuals`.

        Raises:
            OSError: the result cannot be written.
        """
        described = [STORE_FORMAT, name, list(problem.sizes), method.family, method.setting]
        length = [seconds, least_steps] if least_steps else [seconds]
        text = json.dumps([*described, seed, *length])
        path = self._folder / f"joint-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
        found = _read_run(path)
        if found is None:
            start = time.perf_counter()
            found = train_on_residuals(problem, method, seed, seconds, least_steps)
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _run_text(text, found))
            self._say(
                f"{problem.title}, {method.family}, {method.setting}, seed {seed}: "
                f"error {found.moments[-1].error:.2e} at step {found.moments[-1].step}, "
                f"{time.perf_counter() - start:.0f} s with compilation"
            )
        return found


def _run_text(described: str, run: ResidualRun) -> str:
    content = {
        "run": described,
        "moments": [
            [value if math.isfinite(value) else None for value in moment] for moment in run.moments
        ],
        "prediction": [float(value) if math.isfinite(value) else None for value in run.prediction],
    }
    return json.dumps(content, allow_nan=False)


def _read_run(path: Path) -> ResidualRun | None:
    """A stored run; None if there is none or it is not complete."""
    try:
        content = parse_json(read_text_file(path, STORE_LIMIT))
        check_type(dict[str, list[list[float | None]] | list[float | None] | str], content, "run")
        moments = [
            Moment(int(step), seconds, *(math.nan if x is None else x for x in figures))
            for step, seconds, *figures in content["moments"]
        ]
        prediction = np.array(content["prediction"], float)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ResidualRun(moments, prediction) if moments else None
