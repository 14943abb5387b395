"""The command ``gtddp report``."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gtddp_lab.cli.cli_errors import RunError, UsageError
from gtddp_lab.cli.options import ReportOptions
from gtddp_lab.core.files import write_atomically
from gtddp_lab.report import curves, game, sample_weights, timing
from gtddp_lab.report.collect import ReportedRun, read_runs
from gtddp_lab.report.page import render_report
from gtddp_lab.report.series import MethodSeries, method_series
from gtddp_lab.report.sources import ReportError
from gtddp_lab.training.run_folder import RunFolder
from gtddp_lab.training.verdict import describe_findings

BAR_BLOCKS = "▁▂▃▄▅▆▇█"


def report_runs(options: ReportOptions) -> None:
    """Prints a summary of runs; with ``--html`` writes the page as well.

    Raises:
        UsageError: If a run cannot be read, or ``--html`` has more than one file name.
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
    print_summary(Console(), runs)
    if options.html is not None:
        target = options.html[0] if options.html else RunFolder(options.runs[0]).report_file
        _write_page(target, runs)
        print(target)


def _write_page(target: Path, runs: Sequence[ReportedRun]) -> None:
    try:
        write_atomically(target, render_report(runs))
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror}.") from error


def print_summary(console: Console, runs: Sequence[ReportedRun]) -> None:
    """Prints results, feedback, sample weights, times, and what is missing."""
    series = method_series(runs)
    for run in runs:
        name = f"{run.short}  {run.name}" if run.short else run.name
        console.print(Text(f"{name}: {run.experiment.title}, {run.status}", style="bold"))
    console.print(_result_table(series))
    for run in runs:
        for sentence in describe_findings(run.experiment, run.records):
            console.print(Text(f"{run.short}: {sentence}" if run.short else sentence))
    for line in [*_feedback_lines(series), *_weight_lines(series), *_time_lines(series)]:
        console.print(Text(line))
    for run in runs:
        for sentence in run.missing:
            console.print(Text(f"{run.short}: {sentence}" if run.short else sentence, "yellow"))


def _result_table(series: Sequence[MethodSeries]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method")
    for heading in ("seeds", "epochs", "train loss", "validation %", "log loss-base", "sec"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in curves.summary_rows(series):
        table.add_row(
            Text(row.series.label),
            str(row.seeds),
            str(row.epochs),
            row.final_loss,
            row.accuracy,
            row.loss_gap,
            row.seconds,
        )
    return table


def _feedback_lines(series: Sequence[MethodSeries]) -> list[str]:
    """The feedback of every stage, as a row of bars for each method."""
    lines: list[str] = []
    for graph in game.game_graphs(series):
        for number, one_series in enumerate(graph.series):
            strengths = [node.strengths[number] for node in graph.nodes if node.strengths]
            # Widths are percentages of the strongest stage.
            levels = [round((len(BAR_BLOCKS) - 1) * strength.width / 100) for strength in strengths]
            bars = "".join(BAR_BLOCKS[level] for level in levels)
            values = [strength.value for strength in strengths]
            strongest = max(range(len(values)), key=values.__getitem__)
            lines.append(
                f"{one_series.label}: feedback by stage {bars}, strongest in stage {strongest}: "
                f"{values[strongest]:.3g} of the open-loop gain"
            )
    return lines


def _weight_lines(series: Sequence[MethodSeries]) -> list[str]:
    """The last range of sample weights, for each method that has any."""
    lines: list[str] = []
    for view in sample_weights.sample_weight_views(series):
        if view.chart is None:
            continue
        curve = view.chart.data[view.series.key]
        low, high = (line[-1] for line in curve["bands"][0])
        middle = curve["middle"][-1]
        if None in (low, middle, high):
            continue
        # Watched images give quantiles (two bands), the optimizer's report only extremes (one).
        has_quantiles = len(curve["bands"]) > 1
        text = "95 % of the weights" if has_quantiles else "weights"
        name = "median" if has_quantiles else "mean"
        lines.append(f"{view.series.label}: {text} {low:.3g} to {high:.3g}, {name} {middle:.3g}")
    return lines


def _time_lines(series: Sequence[MethodSeries]) -> list[str]:
    return [
        f"{times.series.label}: "
        + ", ".join(f"{share.name} {share.seconds:.1f} s" for share in times.shares)
        for times in timing.method_times(series)
        if times.shares
    ]
