"""Fig. 8: variance over seeds at three learning rates for each variant."""

import dataclasses
from typing import Any

from gtddp_lab.studies.cell_runner import CellResult
from gtddp_lab.studies.cells import Cell, default_cell
from gtddp_lab.studies.paper.figure6 import VARIANCE_HEADINGS, variance_rows, variance_table
from gtddp_lab.studies.paper.setting import PAPER_BASES, QUICK_SETTING, cell_runner, seed_count
from gtddp_lab.studies.pictures import draw_intervals
from gtddp_lab.studies.section import StudyOptions, StudySection

FIGURE8_VARIANTS = ("base", "sequential", "implicit")
FIRST_ORDER = PAPER_BASES[:3]
"""The bases without EKFAC, whose runs take ten times as long."""

RATE_FACTORS = (0.3, 1.0, 3.0)
FIGURE8_NETWORK: dict[str, Any] = {"network": "residual-mlp", "batch_size": 32, "epochs": 12}


def study_figure8(options: StudyOptions) -> StudySection:
    """Train each base at 0.3, 1 and 3 times its default learning rate."""
    changes, bases, factors = FIGURE8_NETWORK, FIRST_ORDER, RATE_FACTORS
    if options.quick:
        changes, bases, factors = QUICK_SETTING, FIRST_ORDER[-1:], RATE_FACTORS[1:]
    results: dict[Cell, CellResult] = {}
    for base in bases:
        default = default_cell("digits", base, **changes)
        rates = [float(f"{default.rate * factor:.2g}") for factor in factors]
        wanted = [
            dataclasses.replace(default, rate=rate, variant=variant)
            for rate in rates
            for variant in FIGURE8_VARIANTS
        ]
        results |= cell_runner(options).run_cells(wanted, seed_count(options, "digits"))
    rows = variance_rows(results)
    pictures = draw_intervals(rows, VARIANCE_HEADINGS, options.out, "figure8")
    first = next(iter(results))
    text = "\n\n".join(
        [
            f"Digits, `{first.network}`, batch {first.batch_size}, {first.epochs} epochs, "
            f"{seed_count(options, 'digits')} seeds (the paper: CIFAR-10, three seeds). Change of "
            "the variance over seeds; negative values mean less variance:",
            "![Change of the variance over seeds at three learning rates](figure8.png)",
            variance_table(rows),
        ]
    )
    data = {label: [estimate.json_data for estimate in estimates] for label, estimates in rows}
    return StudySection("figure8", "Fig. 8", text, data, pictures)
