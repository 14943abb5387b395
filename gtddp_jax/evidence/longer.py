"""Larger batches and longer training, with a cosine schedule and weight decay."""

from gtddp_jax.evidence.cells import grid, usual
from gtddp_jax.evidence.comparison import BOTH_TIMES, compare, table
from gtddp_jax.evidence.paper.setting import SMALL, lab, seeds
from gtddp_jax.evidence.pictures import comparison_intervals
from gtddp_jax.evidence.section import Options, Section

VARIANTS = ("implicit", "sequential")
EPOCHS = {32: 30, 128: 60, 512: 120}
"""Epochs by batch size."""

RATES: dict[str, tuple[float, ...]] = {"sgd": (0.03, 0.1), "adam": (1e-3, 3e-3, 1e-2)}
DECAY = 1e-4


def study(options: Options) -> Section:
    """Trains a residual MLP on the digits at three batch sizes, with rates that fall to zero."""
    rows = []
    quick = options.quick
    for batch, epochs in list(EPOCHS.items())[: 1 if quick else None]:
        for base, rates in {"adam": RATES["adam"][:1]}.items() if quick else RATES.items():
            changes = {"network": "residual-mlp", "batch_size": batch, "epochs": epochs}
            cell = usual(
                "digits",
                base,
                schedule="cosine",
                weight_decay=DECAY,
                **(SMALL if quick else changes),
            )
            cells = grid(cell, rate=rates, variant=VARIANTS[:1] if quick else VARIANTS)
            rows += compare(lab(options), cells, seeds(options, "digits"))
    pictures = comparison_intervals(
        rows,
        options.out,
        "longer",
        lambda row: f"batch {row.cell.batch_size}, {row.cell.label} {row.cell.rate:g}",
    )
    text = "\n\n".join(
        [
            "Digits, residual MLP, rate falling to zero along half a cosine, weight decay "
            f"{DECAY:g} (in the loss). At equal time the base's schedule is as long as our time.",
            "![Log-ratios and accuracy differences with intervals](longer.png)",
            table(
                rows,
                "batch",
                *BOTH_TIMES,
                "diverged",
            ),
        ]
    )
    title = "Larger batches, longer training, schedules"
    return Section("longer", title, text, {"rows": [r.data for r in rows]}, pictures)
