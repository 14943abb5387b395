"""Fig. 6a and 6b: training curves, and the variance over seeds."""

from gtddp_jax.evidence.cells import Cell, grid
from gtddp_jax.evidence.lab import Result
from gtddp_jax.evidence.paper.setting import cells, described, lab, seeds
from gtddp_jax.evidence.pictures import curves, intervals
from gtddp_jax.evidence.section import Options, Section
from gtddp_jax.evidence.statistics import Estimate, variance_change
from gtddp_jax.evidence.variants import fits

VARIANTS = ("base", "sequential", "implicit")
HEADINGS = {"final training loss": -1, "validation accuracy": -1}


def study(options: Options) -> Section:
    """Draws the runs of Table 2: curves with bands, variance with and without feedback."""
    bases = list(cells(options))
    found: dict[Cell, Result] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in bases):
        own = [cell for cell in bases if cell.dataset == dataset]
        wanted = [cell for base in own for cell in grid(base, variant=VARIANTS)]
        found |= lab(options).results(wanted, seeds(options, dataset))
    pictures = curves(list(found.values()), options.out, "figure6a", _heading)
    rows = variance_rows(found)
    pictures += intervals(rows, HEADINGS, options.out, "figure6b")
    text = "\n\n".join(
        [
            "Mean over seeds with the band of its 95 % bootstrap interval. "
            + described(bases, options),
            "![Training loss and validation accuracy over the epochs](figure6a.png)",
            "Change of the variance over seeds, VAR_GT-DDP / VAR_base less one; below 0 is what "
            "the paper reports. With so few seeds a variance is known to a factor of two or three:",
            "![Change of the variance over seeds, with intervals](figure6b.png)",
            variance_table(rows),
        ]
    )
    data = {label: [estimate.data for estimate in both] for label, both in rows}
    return Section("figure6", "Fig. 6a and 6b", text, data, pictures)


def _heading(result: Result) -> str:
    return f"{result.cell.dataset}, {result.cell.setting.label} {result.cell.rate:g}"


def variance_rows(found: dict[Cell, Result]) -> list[tuple[str, tuple[Estimate, Estimate]]]:
    """Label and change of the variance of final loss and accuracy, for every variant."""
    rows = []
    for cell, result in found.items():
        if cell.variant == "base" or not fits(cell.variant, cell.base):
            continue
        base = found[cell.setting]
        both = tuple(
            variance_change(result.final(name), base.final(name))
            for name in ("train_loss", "validation_accuracy")
        )
        rows.append((f"{cell.dataset}, {cell.label} {cell.rate:g}", both))
    return rows


def variance_table(rows: list[tuple[str, tuple[Estimate, Estimate]]]) -> str:
    """`variance_rows` in Markdown."""
    lines = [f"| method, rate | {' | '.join(HEADINGS)} |", "|---|---|---|"]
    lines += [f"| {label} | {' | '.join(e.text() for e in both)} |" for label, both in rows]
    return "\n".join(lines)
