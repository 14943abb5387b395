"""The command ``gtddp report``."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gtddp_cli.errors import RunError, UsageError
from gtddp_cli.options import Report
from gtddp_jax.training.files import write_whole
from gtddp_jax.training.report import curves, game, timing, weights
from gtddp_jax.training.report.collect import Run, read_runs
from gtddp_jax.training.report.page import render
from gtddp_jax.training.report.series import Series, series_of
from gtddp_jax.training.report.sources import ReportError
from gtddp_jax.training.run_folder import RunFolder

BLOCKS = "▁▂▃▄▅▆▇█"


def report(options: Report) -> None:
    """Prints a summary of runs; with ``--html`` writes the page as well.

    Raises:
        UsageError: If a run cannot be read, or the page is given more than one name.
        RunError: If the page cannot be written.
    """
    if not options.runs:
        raise UsageError("report needs the folder of at least one run.")
    if options.html is not None and len(options.html) > 1:
        raise UsageError(
            f"--html takes one file, got {len(options.html)}; name the runs before it."
        )
    try:
        runs = read_runs(options.runs)
    except ReportError as error:
        raise UsageError(str(error)) from error
    show(Console(), runs)
    if options.html is not None:
        target = options.html[0] if options.html else RunFolder(options.runs[0]).report
        _write(target, runs)
        print(target)


def _write(target: Path, runs: Sequence[Run]) -> None:
    try:
        write_whole(target, render(runs))
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror}.") from error


def show(console: Console, runs: Sequence[Run]) -> None:
    """Prints the summary."""
    series = series_of(runs)
    for run in runs:
        name = f"{run.short}  {run.name}" if run.short else run.name
        console.print(Text(f"{name}: {run.experiment.title}, {run.status}", style="bold"))
    console.print(_results(series))
    for told in (_feedback(series), _weights(series), _time(series)):
        for line in told:
            console.print(Text(line))
    for run in runs:
        for sentence in run.missing:
            console.print(Text(f"{run.short}: {sentence}" if run.short else sentence, "yellow"))


def _results(series: Sequence[Series]) -> Table:
    layout = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    layout.add_column("method")
    for heading in ("seeds", "epochs", "train loss", "validation %", "log loss-base", "sec"):
        layout.add_column(heading, justify="right", no_wrap=True)
    for row in curves.summary(series):
        layout.add_row(
            Text(row.series.label),
            str(row.seeds),
            str(row.epochs),
            row.final_loss,
            row.accuracy,
            row.loss_gap,
            row.seconds,
        )
    return layout


def _feedback(series: Sequence[Series]) -> list[str]:
    """Feedback stage by stage, as a row of blocks for each series."""
    lines: list[str] = []
    for graph in game.graphs(series):
        for number, one in enumerate(graph.series):
            found = [node.strengths[number] for node in graph.nodes if node.strengths]
            blocks = "".join(
                BLOCKS[round((len(BLOCKS) - 1) * strength.width / 100)] for strength in found
            )
            largest = max(range(len(found)), key=lambda i: found[i].value)
            lines.append(
                f"{one.label}: feedback by stage {blocks}, most in stage {largest}: "
                f"{found[largest].value:.3g} of the open gain"
            )
    return lines


def _weights(series: Sequence[Series]) -> list[str]:
    lines: list[str] = []
    for found in weights.weighed(series):
        if found.chart is None:
            continue
        curve = found.chart.data[found.series.key]
        low, high = (line[-1] for line in curve["bands"][0])
        middle = curve["middle"][-1]
        if None not in (low, middle, high):
            watched = len(curve["bands"]) > 1
            text = "95 % of the weights" if watched else "weights"
            name = "median" if watched else "mean"
            lines.append(
                f"{found.series.label}: {text} {low:.3g} to {high:.3g}, {name} {middle:.3g}"
            )
    return lines


def _time(series: Sequence[Series]) -> list[str]:
    return [
        f"{time.series.label}: "
        + ", ".join(f"{share.name} {share.seconds:.1f} s" for share in time.shares)
        for time in timing.times(series)
        if time.shares
    ]
