"""What a study is given and what it gives back."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Options:
    """What every study is given.

    Attributes:
        out: folder for pictures; a study writes `<name>.png` and `<name>.svg` there.
        seeds: number of seeds.
        quick: a version that takes seconds, for the documentation build and for tests.
        datasets: names of data sets.
        data_dir: where they are; None for the usual places.
        say: is told of progress, one line at a time.
    """

    out: pathlib.Path
    seeds: int = 6
    quick: bool = False
    datasets: tuple[str, ...] = ("digits",)
    data_dir: str | pathlib.Path | None = None
    say: Callable[[str], None] = print


@dataclasses.dataclass(frozen=True)
class Section:
    """One section of the report.

    Attributes:
        name: of the study, for example "figure4".
        title: heading.
        text: Markdown below the heading; pictures as `![alt](name.png)`.
        data: the numbers behind tables and pictures, ready for JSON (finite floats or None).
        pictures: names of files in `Options.out`.
    """

    name: str
    title: str
    text: str
    data: dict[str, Any]
    pictures: tuple[str, ...] = ()
