"""The table at the end of a comparison."""

from rich import box
from rich.table import Table

from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.run_summary import MethodSummary


def summary_table(experiment: Experiment, summaries: list[MethodSummary]) -> Table:
    """Lays out one row per method: means over the seeds, ± standard error."""
    labels = {method.name: method.label for method in experiment.methods()}
    table = Table(title=experiment.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    for heading in ("seeds", "epochs", "train loss", "run average", "validation %", "sec"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(
            labels[summary.method],
            str(summary.seeds),
            str(summary.epochs),
            f"{summary.final_loss:.4f}",
            f"{summary.average_loss:.4f}",
            _format_accuracy(summary),
            f"{summary.seconds:.1f}",
        )
    return table


def skipped_step_warnings(experiment: Experiment, summaries: list[MethodSummary]) -> list[str]:
    """One line for every method that skipped steps."""
    labels = {method.name: method.label for method in experiment.methods()}
    return [
        f"{labels[summary.method]} skipped {summary.skipped_steps} steps: numbers were not finite."
        for summary in summaries
        if summary.skipped_steps
    ]


def _format_accuracy(summary: MethodSummary) -> str:
    percent = f"{100 * summary.validation_accuracy:.2f}"
    if summary.validation_error is not None:
        percent += f" ± {100 * summary.validation_error:.2f}"
    return percent
