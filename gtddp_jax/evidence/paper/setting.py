"""The paper's setting on the data that is there: networks, batch sizes, sizes of subsets."""

from collections.abc import Iterator
from typing import Any

from gtddp_jax.evidence.cells import Cell, usual
from gtddp_jax.evidence.lab import Lab
from gtddp_jax.evidence.section import Options

BASES = ("sgd", "rmsprop", "adam", "ekfac")
"""The paper's four, by key in ``methods.OPTIMIZERS``. Its SGD's momentum is not given; ours has
0.9."""

EPOCHS = {"digits": 6, "fashion_mnist": 3}
"""Fewer than `gtddp train` has, where time requires it."""

SUBSETS = {"fashion_mnist": 5000}
"""Training images, where time requires fewer than all."""

SMALL: dict[str, Any] = {"network": "residual-mlp", "batch_size": 32, "epochs": 2, "subset": 200}
"""What the quick version of any study trains."""


def seeds(options: Options, dataset: str) -> int:
    """Number of seeds: twice as many on the digits, which are cheap."""
    return 3 if options.quick else options.seeds * (2 if dataset == "digits" else 1)


def cell(options: Options, dataset: str, base: str) -> Cell:
    """The base optimizer at its usual rate on a data set."""
    if options.quick:
        return usual(dataset, base, **SMALL)
    changes = {"epochs": EPOCHS[dataset]} if dataset in EPOCHS else {}
    return usual(dataset, base, subset=SUBSETS.get(dataset), **changes)


def cells(options: Options, bases: tuple[str, ...] = BASES) -> Iterator[Cell]:
    """`cell` for every data set and base."""
    for dataset in options.datasets:
        for base in ("adam",) if options.quick else bases:
            yield cell(options, dataset, base)


def lab(options: Options) -> Lab:
    """Where all studies with the same folder run and keep their cells."""
    return Lab(options.out / "runs", options.data_dir, options.say)


def described(cells: list[Cell], options: Options) -> str:
    """One sentence for each data set: network, batch, epochs, subset, seeds."""
    lines = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        found = next(cell for cell in cells if cell.dataset == dataset)
        images = f"{found.subset} training images" if found.subset else "all training images"
        lines.append(
            f"{dataset}: `{found.network}`, batch {found.batch_size}, {found.epochs} epochs, "
            f"{images}, {seeds(options, dataset)} seeds."
        )
    return " ".join(lines)
