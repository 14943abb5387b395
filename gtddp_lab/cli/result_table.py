"""The table at the end of a comparison."""

import math

from rich import box
from rich.table import Table

from gtddp_lab.core.printing import loss_text
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.run_summary import MethodSummary


def summary_table(experiment: Experiment, summaries: list[MethodSummary]) -> Table:
    """Lays out one row per method: means over the seeds, ± standard error.

    Numbers of seeds and epochs are in the caption, or in a column if the methods differ in them.
    """
    lengths = {(summary.seeds, summary.epochs) for summary in summaries}
    has_one_length = len(lengths) == 1
    labels = {method.name: method.label for method in experiment.methods()}
    table = Table(
        title=experiment.title,
        caption=_caption(labels[summaries[0].method], lengths) if summaries else None,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    headings = ("train loss", "equal time", "validation %", "sec")
    for heading in headings if has_one_length else ("epochs", *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        loss, error = loss_text(summary.final_loss), summary.validation_error
        row = (
            # The error has the form of the loss.
            _with_error(loss, summary.loss_error, ".0e" if "e" in loss else ".4f"),
            "-" if math.isnan(summary.equal_time_loss) else loss_text(summary.equal_time_loss),
            _with_error(
                f"{100 * summary.validation_accuracy:.2f}",
                None if error is None else 100 * error,
                ".2f",
            ),
            f"{summary.seconds:.1f}",
        )
        length = () if has_one_length else (f"{summary.seeds} × {summary.epochs}",)
        table.add_row(labels[summary.method], *length, *row)
    return table


def _caption(base: str, lengths: set[tuple[int, int]]) -> str:
    text = "mean ± standard error over the seeds"
    if len(lengths) == 1:
        ((seeds, epochs),) = lengths
        text = f"seeds: {seeds}, epochs: {epochs}; mean ± standard error over the seeds"
    return f"{text}; equal time: training loss at the time at which {base} had finished"


def skipped_step_warnings(experiment: Experiment, summaries: list[MethodSummary]) -> list[str]:
    """One line for every method that skipped steps."""
    labels = {method.name: method.label for method in experiment.methods()}
    return [
        f"{labels[summary.method]} skipped {summary.skipped_steps} steps: numbers were not finite."
        for summary in summaries
        if summary.skipped_steps
    ]


def _with_error(text: str, error: float | None, form: str) -> str:
    return text if error is None else f"{text} ± {error:{form}}"
