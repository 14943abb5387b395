"""What the default settings do over a grid of rates: does it help, can it hurt?"""

from collections.abc import Sequence
from typing import Any

from gtddp_jax.evidence.cells import Cell, grid, usual
from gtddp_jax.evidence.comparison import BOTH_TIMES, Comparison, compare, table
from gtddp_jax.evidence.paper.setting import EPOCHS, SMALL, SUBSETS, lab, seeds
from gtddp_jax.evidence.pictures import comparison_intervals
from gtddp_jax.evidence.section import Options, Section

VARIANTS = ("implicit", "sequential", "sequential-own")
RATES: dict[str, tuple[float, ...]] = {
    "sgd": (0.003, 0.01, 0.03, 0.1),
    "adam": (3e-4, 1e-3, 3e-3, 1e-2),
    "rmsprop": (3e-4, 1e-3, 3e-3, 1e-2),
    "plain_sgd": (0.03, 0.1, 0.3),
    "ekfac": (0.003, 0.01),
}
"""About a decade around the best rate of the base on these problems, by base."""

MLP = {"network": "residual-mlp", "batch_size": 32, "epochs": 12}
LARGER = {
    "network": "residual-conv-stride",
    "batch_size": 128,
    "epochs": EPOCHS["fashion_mnist"],
    "subset": SUBSETS["fashion_mnist"],
}

PROBLEMS: dict[str, tuple[tuple[dict[str, Any], dict[str, tuple[float, ...]]], ...]] = {
    "digits": ((MLP, RATES),),
    "fashion_mnist": ((LARGER, {base: RATES[base][1:3] for base in ("sgd", "adam")}),),
}
"""Network with its numbers, and rates by base, for each data set."""


def problems(options: Options) -> list[Cell]:
    """The base optimizers at all their rates."""
    if options.quick:
        return list(grid(usual("digits", "adam", **SMALL), rate=(1e-3, 1e-2)))
    found = []
    for dataset in options.datasets:
        for changes, all_rates in PROBLEMS.get(dataset, ()):
            for base, rates in all_rates.items():
                found += list(grid(usual(dataset, base, **changes), rate=rates))
    return found


def study(options: Options) -> Section:
    """Trains every base at every rate, alone and in both games with their defaults."""
    return report(options, "defaults", "Default settings over a decade of rates", VARIANTS)


def report(options: Options, name: str, title: str, variants: Sequence[str]) -> Section:
    """A section with table, picture and verdicts for some variants on `problems`."""
    rows: list[Comparison] = []
    for base in problems(options):
        rows += compare(lab(options), grid(base, variant=variants), seeds(options, base.dataset))
    pictures = comparison_intervals(rows, options.out, name, _label)
    text = "\n\n".join(
        [
            verdicts(rows),
            f"![Log-ratios and accuracy differences with intervals]({name}.png)",
            table(
                rows,
                "data",
                "network",
                *BOTH_TIMES,
                "variance, change",
                "diverged",
            ),
        ]
    )
    return Section(name, title, text, {"rows": [row.data for row in rows]}, pictures)


def _label(row: Comparison) -> str:
    return f"{row.cell.dataset}, {row.cell.network}, {row.cell.label} {row.cell.rate:g}"


def verdicts(rows: Sequence[Comparison]) -> str:
    """How often each variant is better, worse, or neither, beyond the 95 % interval."""
    lines = [
        "| method | cells | diverges where the base does not | trains where the base diverges | "
        "run average: better / worse | final loss: better / worse | validation: better / worse | "
        "equal time, final loss: better / worse | variance: lower / higher |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for row in rows:
        kind = "without momentum" if row.cell.base in ("plain_sgd", "rmsprop") else "with momentum"
        groups.setdefault((row.cell.variant, kind), []).append(row)
    for (variant, kind), own in groups.items():
        counts = [_count(own, name, lower) for name, lower in _FIGURES.items()]
        fails = sum(bool((row.ours.diverged & ~row.base_diverged).any()) for row in own)
        saves = sum(bool((~row.ours.diverged & row.base_diverged).any()) for row in own)
        lines.append(
            f"| {variant}, {kind} | {len(own)} | {fails} | {saves} | {' | '.join(counts)} |"
        )
    return "\n".join(lines)


_FIGURES = {"average": -1, "final": -1, "accuracy": 1, "later_final": -1, "variance": -1}
"""Estimates by name, with the sign that is better."""


def _count(rows: Sequence[Comparison], name: str, better: int) -> str:
    signs = [getattr(row, name).sign for row in rows]
    return f"{signs.count(better)} / {signs.count(-better)}"
