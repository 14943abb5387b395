"""Default settings over a grid of learning rates: where they help and where they hurt."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from gtddp_lab.studies.cells import Cell, cell_grid, default_cell
from gtddp_lab.studies.comparison import (
    EQUAL_TIME_COLUMNS,
    Comparison,
    compare_with_base,
    comparison_table,
)
from gtddp_lab.studies.markdown import markdown_table
from gtddp_lab.studies.paper.setting import (
    DATASET_SETTINGS,
    QUICK_SETTING,
    cell_runner,
    seed_count,
)
from gtddp_lab.studies.pictures import draw_comparison_intervals
from gtddp_lab.studies.section import StudyOptions, StudySection

DEFAULT_VARIANTS = ("implicit", "sequential", "sequential-self-response")
GRID_RATES: dict[str, tuple[float, ...]] = {
    "sgd": (0.003, 0.01, 0.03, 0.1),
    "adam": (3e-4, 1e-3, 3e-3, 1e-2),
    "rmsprop": (3e-4, 1e-3, 3e-3, 1e-2),
    "plain_sgd": (0.03, 0.1, 0.3),
    "ekfac": (0.003, 0.01),
}
"""Learning rates by base: about a decade around its best rate on these problems."""


class GridProblem(NamedTuple):
    """A network with its training, and what is compared on it.

    Attributes:
        changes: Fields of `Cell` that differ from the defaults.
        rates: Learning rates by base.
        variants: Variants that are compared with the base.
    """

    changes: dict[str, Any]
    rates: dict[str, tuple[float, ...]]
    variants: tuple[str, ...] = DEFAULT_VARIANTS


MIDDLE_RATES = {"sgd": (0.01, 0.03), "adam": (1e-3, 3e-3), "rmsprop": (1e-3, 3e-3)}
"""The middle of `GRID_RATES`, for networks whose runs take longer."""

GRID_PROBLEMS: dict[str, tuple[GridProblem, ...]] = {
    "digits": (
        GridProblem({"network": "residual-mlp", "batch_size": 32, "epochs": 12}, GRID_RATES),
        GridProblem(
            {"network": "residual-conv", **DATASET_SETTINGS["digits"]},
            MIDDLE_RATES,
            ("implicit",),
        ),
    ),
    "fashion_mnist": (
        GridProblem(
            {"network": "residual-conv-stride", **DATASET_SETTINGS["fashion_mnist"]},
            MIDDLE_RATES,
            ("implicit", "sequential"),
        ),
    ),
}
"""The problems of each data set."""


def grid_cells(options: StudyOptions) -> Iterator[Cell]:
    """Yield the cells of all variants."""
    if options.quick:
        cell = default_cell("digits", "adam", **QUICK_SETTING)
        yield from cell_grid(cell, variant=DEFAULT_VARIANTS[:2])
        return
    for dataset in options.datasets:
        for problem in GRID_PROBLEMS.get(dataset, ()):
            for base, rates in problem.rates.items():
                cell = default_cell(dataset, base, **problem.changes)
                yield from cell_grid(cell, rate=rates, variant=problem.variants)


def study_defaults(options: StudyOptions) -> StudySection:
    """Train every base at every rate, alone and in both games with their default settings."""
    name, title = "defaults", "Default settings over a decade of learning rates"
    rows: list[Comparison] = []
    for _, group in groupby(grid_cells(options), lambda cell: cell.base_cell):
        cells = list(group)
        seeds = seed_count(options, cells[0].dataset)
        rows += compare_with_base(cell_runner(options), cells, seeds)
    pictures = draw_comparison_intervals(rows, options.out, name, _row_label)
    columns = ("data", "network", *EQUAL_TIME_COLUMNS, "variance, change", "diverged")
    text = "\n\n".join(
        [
            verdict_table(rows),
            f"![Log-ratios and accuracy differences with intervals]({name}.png)",
            comparison_table(rows, *columns),
        ]
    )
    return StudySection(name, title, text, {"rows": [row.json_data for row in rows]}, pictures)


def _row_label(row: Comparison) -> str:
    return f"{row.cell.dataset}, {row.cell.network}, {row.cell.label} {row.cell.rate:g}"


def verdict_table(rows: Sequence[Comparison]) -> str:
    """Count how often each variant is better or worse, beyond the 95 % interval."""
    headings = (
        "network",
        "method",
        "cells",
        "diverges where the base does not",
        "trains where the base diverges",
        "run average: better / worse",
        "final loss: better / worse",
        "validation: better / worse",
        "equal time, final loss: better / worse",
        "equal time, validation: better / worse",
        "variance: lower / higher",
    )
    groups: dict[tuple[str, str, str], list[Comparison]] = {}
    for row in rows:
        # Momentum decides how much an implicit step can help.
        kind = "without momentum" if row.cell.base in ("plain_sgd", "rmsprop") else "with momentum"
        groups.setdefault((row.cell.network, row.cell.variant, kind), []).append(row)
    lines: list[list[str]] = []
    for (network, variant, kind), members in groups.items():
        counts = [_better_worse(members, name, sign) for name, sign in _BETTER_SIGNS.items()]
        diverges = sum(bool((row.variant.diverged & ~row.base_diverged).any()) for row in members)
        trains = sum(bool((~row.variant.diverged & row.base_diverged).any()) for row in members)
        method = f"{variant}, {kind}"
        lines.append([network, method, str(len(members)), str(diverges), str(trains), *counts])
    return markdown_table(headings, lines)


_BETTER_SIGNS = {
    "average": -1,
    "final": -1,
    "accuracy": 1,
    "equal_time_final": -1,
    "equal_time_accuracy": 1,
    "variance": -1,
}
"""Estimates of a `Comparison` by name, each with the sign that is better."""


def _better_worse(rows: Sequence[Comparison], name: str, better: int) -> str:
    signs = [getattr(row, name).sign for row in rows]
    return f"{signs.count(better)} / {signs.count(-better)}"
