"""Fig. 6a and 6b: training curves, and the variance over seeds."""

from gtddp_lab.studies.cell_runner import CellResult
from gtddp_lab.studies.cells import Cell, cell_grid
from gtddp_lab.studies.paper.setting import cell_runner, describe_cells, paper_cells, seed_count
from gtddp_lab.studies.pictures import draw_intervals, draw_training_curves
from gtddp_lab.studies.section import StudyOptions, StudySection
from gtddp_lab.studies.statistics import Estimate, variance_change
from gtddp_lab.studies.variants import variant_fits

FIGURE6_VARIANTS = ("base", "sequential", "implicit")
VARIANCE_HEADINGS = {"final training loss": -1, "validation accuracy": -1}
"""Columns of the variance, each with the sign that is better."""


def study_figure6(options: StudyOptions) -> StudySection:
    """Draw the runs of Table 2: curves with bands, variance with and without feedback."""
    bases = list(paper_cells(options))
    results: dict[Cell, CellResult] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in bases):
        wanted = [
            cell
            for base in bases
            if base.dataset == dataset
            for cell in cell_grid(base, variant=FIGURE6_VARIANTS)
        ]
        results |= cell_runner(options).run_cells(wanted, seed_count(options, dataset))
    pictures = draw_training_curves(list(results.values()), options.out, "figure6a", _panel_heading)
    rows = variance_rows(results)
    pictures += draw_intervals(rows, VARIANCE_HEADINGS, options.out, "figure6b")
    text = "\n\n".join(
        [
            "Means over seeds with their 95 % bootstrap intervals. "
            + describe_cells(bases, options),
            "![Training loss and validation accuracy over the epochs](figure6a.png)",
            "Change of the variance over seeds, VAR_GT-DDP / VAR_base - 1; the paper reports "
            "negative values. With this number of seeds, a variance is known only up to a factor "
            "of two or three:",
            "![Change of the variance over seeds, with intervals](figure6b.png)",
            variance_table(rows),
        ]
    )
    data = {label: [estimate.json_data for estimate in estimates] for label, estimates in rows}
    return StudySection("figure6", "Fig. 6a and 6b", text, data, pictures)


def _panel_heading(result: CellResult) -> str:
    return f"{result.cell.dataset}, {result.cell.base_cell.label} {result.cell.rate:g}"


def variance_rows(
    results: dict[Cell, CellResult],
) -> list[tuple[str, tuple[Estimate, Estimate]]]:
    """Return label and change of the variance of final loss and accuracy, for every variant."""
    rows = []
    for cell, result in results.items():
        if cell.variant == "base" or not variant_fits(cell.variant, cell.base):
            continue
        base = results[cell.base_cell]
        loss, accuracy = (
            variance_change(result.final_figure(name), base.final_figure(name))
            for name in ("train_loss", "validation_accuracy")
        )
        rows.append((f"{cell.dataset}, {cell.label} {cell.rate:g}", (loss, accuracy)))
    return rows


def variance_table(rows: list[tuple[str, tuple[Estimate, Estimate]]]) -> str:
    """Format `variance_rows` in Markdown."""
    lines = [f"| method, rate | {' | '.join(VARIANCE_HEADINGS)} |", "|---|---|---|"]
    for label, estimates in rows:
        cells = " | ".join(estimate.text() for estimate in estimates)
        lines.append(f"| {label} | {cells} |")
    return "\n".join(lines)
