"""The paper's setting on the available data: networks, batch sizes, sizes of subsets."""

from collections.abc import Iterator
from typing import Any

from gtddp_lab.studies.cell_runner import CellRunner
from gtddp_lab.studies.cells import Cell, default_cell
from gtddp_lab.studies.section import StudyOptions

PAPER_BASES = ("sgd", "rmsprop", "adam", "ekfac")
"""The paper's four bases, keys of ``methods.OPTIMIZERS``.

The paper does not state the momentum of its SGD; here it is 0.9.
"""

EPOCHS_BY_DATASET = {"digits": 6, "fashion_mnist": 3}
"""Fewer epochs than the defaults of `gtddp train`, to save time."""

BATCH_SIZES = {"digits": 8}
"""The paper's batch; on its other data sets it is the default of `gtddp train`."""

SUBSET_SIZES = {"fashion_mnist": 5000}
"""Number of training images where all of them would take too long."""

QUICK_SETTING: dict[str, Any] = {
    "network": "residual-mlp",
    "batch_size": 32,
    "epochs": 2,
    "subset": 200,
}
"""Fields of the cells in the quick version of every study."""


def seed_count(options: StudyOptions, dataset: str) -> int:
    """Return the number of seeds: twice as many on the digits, which are cheap."""
    return 3 if options.quick else options.seeds * (2 if dataset == "digits" else 1)


def paper_cell(options: StudyOptions, dataset: str, base: str) -> Cell:
    """Return the cell of a base optimizer at its default rate on a data set."""
    if options.quick:
        return default_cell(dataset, base, **QUICK_SETTING)
    changes: dict[str, Any] = {}
    if dataset in EPOCHS_BY_DATASET:
        changes["epochs"] = EPOCHS_BY_DATASET[dataset]
    if dataset in BATCH_SIZES:
        changes["batch_size"] = BATCH_SIZES[dataset]
    return default_cell(dataset, base, subset=SUBSET_SIZES.get(dataset), **changes)


def paper_cells(options: StudyOptions, bases: tuple[str, ...] = PAPER_BASES) -> Iterator[Cell]:
    """Yield the cells of every data set and base."""
    for dataset in options.datasets:
        for base in ("adam",) if options.quick else bases:
            yield paper_cell(options, dataset, base)


def cell_runner(options: StudyOptions) -> CellRunner:
    """Return the runner shared by all studies that write to the same folder."""
    return CellRunner(options.out / "runs", options.data_dir, options.say)


def describe_cells(cells: list[Cell], options: StudyOptions) -> str:
    """Describe each data set in one sentence: network, batch, epochs, subset, seeds."""
    sentences = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        first = next(cell for cell in cells if cell.dataset == dataset)
        images = f"{first.subset} training images" if first.subset else "all training images"
        sentences.append(
            f"{dataset}: `{first.network}`, batch {first.batch_size}, {first.epochs} epochs, "
            f"{images}, {seed_count(options, dataset)} seeds."
        )
    return " ".join(sentences)
