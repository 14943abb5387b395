"""The table at the end of a comparison."""

import math

from rich import box
from rich.table import Table

from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.run_summary import MethodSummary


def summary_table(experiment: Experiment, summaries: list[MethodSummary]) -> Table:
    """Lays out one row per method: means over the seeds, ± standard error."""
    labels = {method.name: method.label for method in experiment.methods()}
    table = Table(
        title=experiment.title,
        caption=_caption(labels[summaries[0].method]) if summaries else None,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    for heading in ("epochs", "train loss", "equal time", "validation %", "sec"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(
            labels[summary.method],
            f"{summary.seeds} × {summary.epochs}",
            _with_error(summary.final_loss, summary.loss_error, 4),
            "-" if math.isnan(summary.equal_time_loss) else f"{summary.equal_time_loss:.4f}",
            _with_error(summary.validation_accuracy, summary.validation_error, 2, scale=100),
            f"{summary.seconds:.1f}",
        )
    return table


def _caption(base: str) -> str:
    return (
        f"epochs: seeds × epochs; loss and accuracy: mean over seeds ± standard error; "
        f"equal time: training loss at the time at which {base} had finished"
    )


def skipped_step_warnings(experiment: Experiment, summaries: list[MethodSummary]) -> list[str]:
    """One line for every method that skipped steps."""
    labels = {method.name: method.label for method in experiment.methods()}
    return [
        f"{labels[summary.method]} skipped {summary.skipped_steps} steps: numbers were not finite."
        for summary in summaries
        if summary.skipped_steps
    ]


def _with_error(value: float, error: float | None, digits: int, scale: int = 1) -> str:
    text = f"{scale * value:.{digits}f}"
    return text if error is None else f"{text} ± {scale * error:.{digits}f}"
