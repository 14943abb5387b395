"""Curves of a comparison as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gtddp_jax.training.records import EpochRecord
from gtddp_jax.training.summary import runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Okabe and Ito's palette: distinguishable without colour vision."""


def plot(path: Path, title: str, labels: dict[str, str], records: Sequence[EpochRecord]) -> None:
    """Draws training loss and validation accuracy over the epochs, one colour per method.

    Thin lines are single seeds; the thick line is their mean over the epochs that all have.

    Args:
        path: The PNG file to write.
        title: Line above both panels.
        labels: A label for every method's name.
        records: The epochs to draw, possibly none.

    Raises:
        OSError: If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for colour, (method, seeds) in zip(COLOURS, runs(records).items(), strict=False):
        losses = [[r.train_loss for r in run] for run in seeds.values()]
        accuracies = [[100 * r.validation_accuracy for r in run] for run in seeds.values()]
        _curves(loss_axes, losses, colour, labels[method])
        _curves(accuracy_axes, accuracies, colour, labels[method])
    if records:
        loss_axes.set_yscale("log")
        loss_axes.legend()
    loss_axes.set_ylabel("training loss after the epoch")
    accuracy_axes.set_ylabel("validation accuracy (%)")
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.savefig(path, format="png")


def _curves(axes: "Axes", lines: list[list[float]], colour: str, label: str) -> None:
    style: dict[str, Any] = {"color": colour, "marker": "."}
    for line in lines:
        axes.plot(range(1, len(line) + 1), line, linewidth=0.7, alpha=0.5, **style)
    common = min(map(len, lines))
    mean = np.mean([line[:common] for line in lines], axis=0)
    axes.plot(range(1, common + 1), mean, linewidth=2, label=label, **style)
