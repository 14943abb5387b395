"""Pictures of the study: errors against time, and answers with their errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gtddp_lab.studies.joint.training import Moment
from gtddp_lab.studies.pictures import new_figure, save_figure
from gtddp_lab.training.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAMILIES = ("joint game", "Adam", "L-BFGS", "SOAP", "optimistix LM", "SPRING")
FAMILY_COLOURS: Mapping[str, str] = dict(zip(FAMILIES, COLOURS, strict=False))
PANELS_PER_ROW = 4


def draw_error_courses(
    courses: Mapping[str, Mapping[str, Sequence[Sequence[Moment]]]], out: Path, name: str
) -> tuple[str, ...]:
    """Draw the relative error against time: one panel per problem, one line per seed.

    Args:
        courses: `{problem: {family: [moments of each seed]}}`.
        out: folder.
        name: name of the files, without extension.
    """
    columns = min(PANELS_PER_ROW, len(courses))
    rows = -(-len(courses) // columns)
    figure = new_figure(columns, rows, width=3.3, height=2.9)
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.ravel()[len(courses) :]:
        axes.set_visible(False)
    for axes, (title, families) in zip(panels.ravel(), courses.items(), strict=False):
        draw_error_panel(axes, title, families)
    for axes in panels[:, 0]:
        axes.set_ylabel("relative L2 error")
    # A family may be in some panels only.
    known: dict[str, Any] = {}
    for axes in panels.ravel():
        lines, labels = axes.get_legend_handles_labels()
        known |= dict(zip(labels, lines, strict=True))
    panels[0, 0].legend(known.values(), known.keys(), fontsize="small")
    return save_figure(figure, out, name)


def draw_error_panel(
    axes: "Axes", title: str, families: Mapping[str, Sequence[Sequence[Moment]]]
) -> None:
    """Draw the relative error against time on one problem: `{family: [moments of each seed]}`."""
    for family, runs in families.items():
        for number, moments in enumerate(runs):
            axes.loglog(
                [moment.seconds for moment in moments if moment.step],
                [moment.error for moment in moments if moment.step],
                color=FAMILY_COLOURS[family],
                label=None if number else family,
                linewidth=1.4,
                alpha=0.8,
            )
    axes.set(title=title, xlabel="seconds")
    axes.grid(alpha=0.3)


def draw_answers(
    answers: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    shapes: Sequence[tuple[int, int]],
    out: Path,
    name: str,
) -> tuple[str, ...]:
    """Draw what the joint game found, and its error below: one column per problem.

    Args:
        answers: `{problem: (points [n, 2], true values [n], predicted values [n])}`.
        shapes: of the grids of the points.
        out: folder.
        name: name of the files, without extension.
    """
    figure = new_figure(len(answers), 2, width=3.1, height=2.5)
    panels: Any = figure.subplots(2, len(answers), squeeze=False)
    for column, ((title, found), shape) in enumerate(zip(answers.items(), shapes, strict=True)):
        points, values, prediction = found
        low, high = points.min(0), points.max(0)
        extent = (low[0], high[0], low[1], high[1])
        error = np.log10(np.maximum(np.abs(prediction - values), 1e-16))
        for row, (image, colours) in enumerate([(prediction, "viridis"), (error, "magma")]):
            shown = panels[row, column].imshow(
                image.reshape(shape).T, origin="lower", extent=extent, aspect="auto", cmap=colours
            )
            figure.colorbar(shown, ax=panels[row, column])
        panels[0, column].set(title=title)
        panels[1, column].set(title="log10 of the absolute error")
    return save_figure(figure, out, name)
