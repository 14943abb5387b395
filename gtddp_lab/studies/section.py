"""`StudyOptions` and `StudySection`: argument and result of every study."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class StudyOptions:
    """Options that every study receives.

    Attributes:
        out: folder for pictures; a study writes `<name>.png` and `<name>.svg` there.
        seeds: number of seeds.
        quick: whether to run a version that takes seconds, for the documentation and for tests.
        datasets: names of data sets.
        data_dir: folder of prepared data sets; None for the default one.
        say: prints one line of progress.
    """

    out: pathlib.Path
    seeds: int = 6
    quick: bool = False
    datasets: tuple[str, ...] = ("digits",)
    data_dir: str | pathlib.Path | None = None
    say: Callable[[str], None] = print


@dataclasses.dataclass(frozen=True)
class StudySection:
    """One section of the report.

    Attributes:
        name: name of the study, for example "figure4".
        title: heading.
        text: Markdown below the heading, with pictures as `![alt](name.png)`.
        data: the numbers behind tables and pictures, ready for JSON (finite floats or None).
        pictures: names of files in `StudyOptions.out`.
    """

    name: str
    title: str
    text: str
    data: dict[str, Any]
    pictures: tuple[str, ...] = ()
