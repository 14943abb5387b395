"""Fig. 8: variance over seeds at three learning rates for each variant."""

import dataclasses
from typing import Any

from gtddp_jax.evidence.cells import Cell, usual
from gtddp_jax.evidence.lab import Result
from gtddp_jax.evidence.paper.figure6 import HEADINGS, variance_rows, variance_table
from gtddp_jax.evidence.paper.setting import BASES, SMALL, lab, seeds
from gtddp_jax.evidence.pictures import intervals
from gtddp_jax.evidence.section import Options, Section

VARIANTS = ("base", "sequential", "implicit")
FIRST_ORDER = BASES[:3]
"""Without EKFAC, a run of which takes ten times as long."""

FACTORS = (0.3, 1.0, 3.0)
NETWORK: dict[str, Any] = {"network": "residual-mlp", "batch_size": 32, "epochs": 12}


def study(options: Options) -> Section:
    """Trains each base at 0.3 times its usual rate, at it and at three times as much."""
    changes = SMALL if options.quick else NETWORK
    found: dict[Cell, Result] = {}
    for base in FIRST_ORDER[-1:] if options.quick else FIRST_ORDER:
        usually = usual("digits", base, **changes)
        rates = [
            float(f"{usually.rate * factor:.2g}")
            for factor in (FACTORS[1:] if options.quick else FACTORS)
        ]
        wanted = [dataclasses.replace(usually, rate=r, variant=v) for r in rates for v in VARIANTS]
        found |= lab(options).results(wanted, seeds(options, "digits"))
    rows = variance_rows(found)
    pictures = intervals(rows, HEADINGS, options.out, "figure8")
    one = next(iter(found))
    text = "\n\n".join(
        [
            f"Digits, `{one.network}`, batch {one.batch_size}, {one.epochs} epochs, "
            f"{seeds(options, 'digits')} seeds (the paper: CIFAR-10, three seeds). Change of the "
            "variance over seeds, below 0 is steadier:",
            "![Change of the variance over seeds at three rates](figure8.png)",
            variance_table(rows),
        ]
    )
    data = {label: [estimate.data for estimate in both] for label, both in rows}
    return Section("figure8", "Fig. 8", text, data, pictures)
