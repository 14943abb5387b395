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

DATASET_SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"batch_size": 8, "epochs": 6},
    "fashion_mnist": {"batch_size": 128, "epochs": 3, "subset": 5000},
}
"""Fields of the cells by data set: the paper's batch, and less training than it had, to save time.

Other data sets have the defaults of `gtddp train`.
"""

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
    return default_cell(dataset, base, **DATASET_SETTINGS.get(dataset, {}))


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
