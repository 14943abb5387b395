"""The table that closes a comparison."""

from rich import box
from rich.table import Table

from gtddp_jax.training.experiment import Experiment
from gtddp_jax.training.summary import Summary


def table(experiment: Experiment, summaries: list[Summary]) -> Table:
    """Lays out one row per method: means over the seeds, ± standard error."""
    labels = {method.name: method.label for method in experiment.methods()}
    layout = Table(
        title=experiment.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    layout.add_column("method", no_wrap=True)
    for heading in ("seeds", "epochs", "train loss", "run average", "validation %", "sec"):
        layout.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        layout.add_row(
            labels[summary.method],
            str(summary.seeds),
            str(summary.epochs),
            f"{summary.final_loss:.4f}",
            f"{summary.average_loss:.4f}",
            _percent(summary),
            f"{summary.seconds:.1f}",
        )
    return layout


def warnings(experiment: Experiment, summaries: list[Summary]) -> list[str]:
    """What the table's numbers do not say: which methods had to skip steps."""
    labels = {method.name: method.label for method in experiment.methods()}
    return [
        f"{labels[summary.method]} skipped {summary.skipped_steps} steps: numbers were not finite."
        for summary in summaries
        if summary.skipped_steps
    ]


def _percent(summary: Summary) -> str:
    percent = f"{100 * summary.validation_accuracy:.2f}"
    if summary.validation_error is not None:
        percent += f" ± {100 * summary.validation_error:.2f}"
    return percent
