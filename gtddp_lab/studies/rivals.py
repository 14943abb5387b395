"""The games beside competitors: extragradient, SAM, MoMo, Prodigy."""

from typing import Any

from gtddp_lab.studies.cells import cell_grid, default_cell
from gtddp_lab.studies.comparison import (
    EQUAL_TIME_COLUMNS,
    Comparison,
    compare_with_base,
    comparison_table,
)
from gtddp_lab.studies.paper.setting import QUICK_SETTING, cell_runner, seed_count
from gtddp_lab.studies.pictures import draw_comparison_intervals
from gtddp_lab.studies.section import StudyOptions, StudySection

RIVALS = (
    "implicit",
    "full",
    "sequential",
    "extragradient",
    "sam",
    "momo",
    "prodigy",
)
QUICK_RIVALS = ("implicit", "extragradient", "momo")
"""The methods of the quick version."""

RIVAL_RATES = {"sgd": (0.01, 0.03), "adam": (1e-3, 3e-3)}
RIVAL_PROBLEM: dict[str, Any] = {"network": "residual-mlp", "batch_size": 32, "epochs": 12}


def study_rivals(options: StudyOptions) -> StudySection:
    """Train a residual MLP on the digits with the games and all competitors."""
    changes = QUICK_SETTING if options.quick else RIVAL_PROBLEM
    bases = [
        cell
        for base, rates in RIVAL_RATES.items()
        for cell in cell_grid(default_cell("digits", base, **changes), rate=rates)
    ]
    if options.quick:
        bases = bases[-1:]
    variants, seeds = QUICK_RIVALS if options.quick else RIVALS, seed_count(options, "digits")
    rows: list[Comparison] = []
    for base in bases:
        rows += compare_with_base(cell_runner(options), cell_grid(base, variant=variants), seeds)
    pictures = draw_comparison_intervals(
        rows, options.out, "rivals", lambda row: f"{row.cell.label} {row.cell.rate:g}"
    )
    text = "\n\n".join(
        [
            "Digits, residual MLP. Prodigy finds its own learning rate; the other methods use that "
            "of the base. At equal time, the base trains as long as the method.",
            "![Log-ratios and accuracy differences with intervals](rivals.png)",
            comparison_table(rows, *EQUAL_TIME_COLUMNS, "diverged"),
        ]
    )
    data = {"rows": [row.json_data for row in rows]}
    return StudySection("rivals", "Competitors", text, data, pictures)
