"""Our games beside what users have today: extragradient, SAM, MoMo, schedule-free, Prodigy."""

from typing import Any

from gtddp_jax.evidence.cells import grid, usual
from gtddp_jax.evidence.comparison import BOTH_TIMES, compare, table
from gtddp_jax.evidence.paper.setting import SMALL, lab, seeds
from gtddp_jax.evidence.pictures import comparison_intervals
from gtddp_jax.evidence.section import Options, Section

VARIANTS = (
    "implicit",
    "product",
    "trial",
    "sequential",
    "extragradient",
    "sam",
    "momo",
    "schedule-free",
    "prodigy",
)
QUICK = ("implicit", "extragradient", "schedule-free")
"""Those of the quick version."""

RATES = {"sgd": (0.01, 0.03), "adam": (1e-3, 3e-3)}
PROBLEM: dict[str, Any] = {"network": "residual-mlp", "batch_size": 32, "epochs": 12}


def study(options: Options) -> Section:
    """Trains a residual MLP on the digits with everything that there is."""
    bases = [
        cell
        for base, rates in RATES.items()
        for cell in grid(usual("digits", base, **(SMALL if options.quick else PROBLEM)), rate=rates)
    ]
    if options.quick:
        bases = bases[-1:]
    rows = []
    for base in bases:
        names = QUICK if options.quick else VARIANTS
        rows += compare(lab(options), grid(base, variant=names), seeds(options, "digits"))
    pictures = comparison_intervals(
        rows, options.out, "rivals", lambda row: f"{row.cell.label} {row.cell.rate:g}"
    )
    text = "\n\n".join(
        [
            "Digits, residual MLP. Prodigy finds its own rate; the others use the base's. "
            "Equal time gives the base the time of the method.",
            "![Log-ratios and accuracy differences with intervals](rivals.png)",
            table(
                rows,
                *BOTH_TIMES,
                "diverged",
            ),
        ]
    )
    return Section("rivals", "Competitors", text, {"rows": [r.data for r in rows]}, pictures)
