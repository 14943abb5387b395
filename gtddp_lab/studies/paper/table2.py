"""Table 2: every data set and base optimizer, with and without GT-DDP."""

from gtddp_lab.core.printing import figure_text
from gtddp_lab.studies.cells import cell_grid
from gtddp_lab.studies.comparison import Comparison, compare_with_base, comparison_table
from gtddp_lab.studies.paper.published import PAPER_ACCURACY, PAPER_LOSS, TABLE_2
from gtddp_lab.studies.paper.setting import cell_runner, describe_cells, paper_cells, seed_count
from gtddp_lab.studies.section import StudyOptions, StudySection

TABLE2_VARIANTS = ("sequential-paper", "sequential", "implicit")
"""The paper's own rule first, then this library's two games with their defaults."""


def study_table2(options: StudyOptions) -> StudySection:
    """Train every data set of `options` with every base, alone and in three games."""
    bases = list(paper_cells(options))
    rows: list[Comparison] = []
    for dataset in dict.fromkeys(cell.dataset for cell in bases):
        variants = [
            variant
            for base in bases
            if base.dataset == dataset
            for variant in cell_grid(base, variant=TABLE2_VARIANTS)
        ]
        rows += compare_with_base(cell_runner(options), variants, seed_count(options, dataset))
    text = "\n\n".join(
        [
            "Base → GT-DDP. The paper reports means over six seeds but neither learning rates nor "
            "numbers of epochs, so only the direction of a change can be compared. Settings here: "
            + describe_cells(bases, options),
            _paper_table(rows),
            "Log-ratios are natural logarithms of the method's training loss over the base's, "
            "paired by seed, with 95 % bootstrap intervals:",
            comparison_table(
                rows,
                "data",
                "base, rate",
                "method",
                "training loss",
                "run average, log-ratio",
                "final loss, log-ratio",
                "validation, points",
                "diverged",
            ),
        ]
    )
    return StudySection("table2", "Table 2", text, {"rows": [row.json_data for row in rows]})


def _paper_table(rows: list[Comparison]) -> str:
    """The results beside those of the paper, whose GT-DDP is the sequential game as published."""
    lines = ["| data | base | method | figure | measured | paper |", "|---|---|---|---|---|---|"]
    for row in rows:
        cell, numbers = row.cell, row.json_data
        published = TABLE_2.get(cell.dataset, {}).get(cell.base)
        for name, key, form in (
            (PAPER_LOSS, "train_loss", ".4f"),
            (PAPER_ACCURACY, "validation_accuracy", ".2f"),
        ):
            measured = " → ".join(figure_text(value, form) for value in numbers[key])
            paper = ""
            if published and cell.variant == "sequential-paper":
                paper = " → ".join(format(value, form) for value in published[name])
            lines.append(
                f"| {cell.dataset} | {row.base.cell.label} | {cell.label} | {name} | {measured} | "
                f"{paper} |"
            )
    return "\n".join(lines)
