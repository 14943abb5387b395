"""What the default settings do over a grid of rates: does it help, can it hurt?"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

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


class Problem(NamedTuple):
    """A network with the numbers of its training, and what is compared on it.

    Attributes:
        changes: Fields of `Cell` that are not as usual.
        rates: Learning rates, by base.
        variants: What the base is compared with.
    """

    changes: dict[str, Any]
    rates: dict[str, tuple[float, ...]]
    variants: tuple[str, ...] = VARIANTS


MIDDLE = {"sgd": (0.01, 0.03), "adam": (1e-3, 3e-3), "rmsprop": (1e-3, 3e-3)}
"""The rates of `RATES` in the middle, for networks whose runs take longer."""

PROBLEMS: dict[str, tuple[Problem, ...]] = {
    "digits": (
        Problem({"network": "residual-mlp", "batch_size": 32, "epochs": 12}, RATES),
        Problem({"network": "residual-conv", "epochs": EPOCHS["digits"]}, MIDDLE, ("implicit",)),
    ),
    "fashion_mnist": (
        Problem(
            {
                "network": "residual-conv-stride",
                "batch_size": 128,
                "epochs": EPOCHS["fashion_mnist"],
                "subset": SUBSETS["fashion_mnist"],
            },
            MIDDLE,
            ("implicit", "sequential"),
        ),
    ),
}
"""What is trained, for each data set."""


def problems(options: Options) -> Iterator[Cell]:
    """All cells but those of the bases."""
    if options.quick:
        yield from grid(usual("digits", "adam", **SMALL), variant=VARIANTS[:2])
        return
    for dataset in options.datasets:
        for problem in PROBLEMS.get(dataset, ()):
            for base, rates in problem.rates.items():
                cell = usual(dataset, base, **problem.changes)
                yield from grid(cell, rate=rates, variant=problem.variants)


def study(options: Options) -> Section:
    """Trains every base at every rate, alone and in both games with their defaults."""
    name, title = "defaults", "Default settings over a decade of rates"
    rows: list[Comparison] = []
    for _, cells in groupby(problems(options), lambda cell: cell.setting):
        own = list(cells)
        rows += compare(lab(options), own, seeds(options, own[0].dataset))
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
        "| network | method | cells | diverges where the base does not | "
        "trains where the base diverges | run average: better / worse | "
        "final loss: better / worse | validation: better / worse | "
        "equal time, final loss: better / worse | equal time, validation: better / worse | "
        "variance: lower / higher |",
        "|" + "---|" * 11,
    ]
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for row in rows:
        kind = "without momentum" if row.cell.base in ("plain_sgd", "rmsprop") else "with momentum"
        groups.setdefault((row.cell.network, row.cell.variant, kind), []).append(row)
    for (network, variant, kind), own in groups.items():
        counts = [_count(own, name, lower) for name, lower in _FIGURES.items()]
        fails = sum(bool((row.ours.diverged & ~row.base_diverged).any()) for row in own)
        saves = sum(bool((~row.ours.diverged & row.base_diverged).any()) for row in own)
        lines.append(
            f"| {network} | {variant}, {kind} | {len(own)} | {fails} | {saves} | "
            f"{' | '.join(counts)} |"
        )
    return "\n".join(lines)


_FIGURES = {
    "average": -1,
    "final": -1,
    "accuracy": 1,
    "later_final": -1,
    "later_accuracy": 1,
    "variance": -1,
}
"""Estimates by name, with the sign that is better."""


def _count(rows: Sequence[Comparison], name: str, better: int) -> str:
    signs = [getattr(row, name).sign for row in rows]
    return f"{signs.count(better)} / {signs.count(-better)}"
