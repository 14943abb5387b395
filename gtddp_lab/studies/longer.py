"""Larger batches and longer training, with a cosine schedule and weight decay."""

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

LONGER_VARIANTS = ("implicit", "sequential")
EPOCHS_BY_BATCH = {32: 30, 128: 60, 512: 120}
"""Number of epochs by batch size."""

LONGER_RATES: dict[str, tuple[float, ...]] = {"sgd": (0.03, 0.1), "adam": (1e-3, 3e-3, 1e-2)}
WEIGHT_DECAY = 1e-4


def study_longer(options: StudyOptions) -> StudySection:
    """Train a residual MLP on the digits at three batch sizes, with rates that decay to zero."""
    batches, rates_by_base, variants = dict(EPOCHS_BY_BATCH), dict(LONGER_RATES), LONGER_VARIANTS
    if options.quick:
        batches, variants = {32: EPOCHS_BY_BATCH[32]}, LONGER_VARIANTS[:1]
        rates_by_base = {"adam": LONGER_RATES["adam"][:1]}
    rows: list[Comparison] = []
    for batch, epochs in batches.items():
        changes = {"network": "residual-mlp", "batch_size": batch, "epochs": epochs}
        for base, rates in rates_by_base.items():
            cell = default_cell(
                "digits",
                base,
                schedule="cosine",
                weight_decay=WEIGHT_DECAY,
                **(QUICK_SETTING if options.quick else changes),
            )
            cells = cell_grid(cell, rate=rates, variant=variants)
            rows += compare_with_base(cell_runner(options), cells, seed_count(options, "digits"))
    pictures = draw_comparison_intervals(rows, options.out, "longer", _row_label)
    text = "\n\n".join(
        [
            "Digits, residual MLP; learning rate decaying to zero along half a cosine; weight "
            f"decay {WEIGHT_DECAY:g} (in the loss). At equal time, the schedule of the base takes "
            "as long as the training with the game.",
            "![Log-ratios and accuracy differences with intervals](longer.png)",
            comparison_table(rows, "batch", *EQUAL_TIME_COLUMNS, "diverged"),
        ]
    )
    title = "Larger batches, longer training, schedules"
    data = {"rows": [row.json_data for row in rows]}
    return StudySection("longer", title, text, data, pictures)


def _row_label(row: Comparison) -> str:
    return f"batch {row.cell.batch_size}, {row.cell.label} {row.cell.rate:g}"
