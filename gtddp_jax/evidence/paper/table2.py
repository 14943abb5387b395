"""Table 2: every data set and base optimizer, with and without GT-DDP."""

import math

from gtddp_jax.evidence.cells import grid
from gtddp_jax.evidence.comparison import Comparison, compare, table
from gtddp_jax.evidence.paper.published import ACCURACY, LOSS, TABLE_2
from gtddp_jax.evidence.paper.setting import cells, described, lab, seeds
from gtddp_jax.evidence.section import Options, Section

VARIANTS = ("sequential", "implicit")


def study(options: Options) -> Section:
    """Trains every data set of `options` with every base, alone and in both games."""
    bases = list(cells(options))
    rows: list[Comparison] = []
    for dataset in dict.fromkeys(cell.dataset for cell in bases):
        own = [cell for cell in bases if cell.dataset == dataset]
        variants = [cell for base in own for cell in grid(base, variant=VARIANTS)]
        rows += compare(lab(options), variants, seeds(options, dataset))
    text = "\n\n".join(
        [
            "Base → GT-DDP. The paper's numbers are means of six seeds; it gives neither learning "
            "rates nor epochs, so that only the direction of the change compares. Ours: "
            + described(bases, options),
            _beside(rows),
            "Log-ratios are natural logarithms of our training loss over the base's, paired by "
            "seed, with 95 % bootstrap intervals:",
            table(
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
    return Section("table2", "Table 2", text, {"rows": [row.data for row in rows]})


def _beside(rows: list[Comparison]) -> str:
    lines = ["| data | base | method | figure | ours | paper |", "|---|---|---|---|---|---|"]
    for row in rows:
        cell, data = row.cell, row.data
        paper = TABLE_2.get(cell.dataset, {}).get(cell.base)
        for name, key, form in (
            (LOSS, "train_loss", ".4f"),
            (ACCURACY, "validation_accuracy", ".2f"),
        ):
            ours = " → ".join("not finite" if x is None else format(x, form) for x in data[key])
            theirs = " → ".join(format(x, form) for x in paper[name]) if paper else ""
            shown = theirs if cell.variant == "sequential" else ""
            lines.append(
                f"| {cell.dataset} | {row.base.cell.label} | {cell.label} | {name} | {ours} | "
                f"{shown} |"
            )
    assert all(math.isfinite(row.step_ratio) for row in rows)
    return "\n".join(lines)
