"""One cell of a grid: everything that determines a training run, except its seed."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from gtddp_lab import data, networks
from gtddp_lab.core.bounds import check_integer
from gtddp_lab.core.look_up import look_up
from gtddp_lab.studies.variants import VARIANTS
from gtddp_lab.training.methods import OPTIMIZERS
from gtddp_lab.training.recipes import recipe_for
from gtddp_lab.training.settings import MOST_EPOCHS, MOST_STEPS, TrainSettings

RESULT_FORMAT = 2
"""Raised whenever the meaning of a stored result changes; older results are then recomputed."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A data set, a network, a base optimizer with its hyperparameters, and a variant of it.

    Attributes:
        dataset: Key in ``data.DATASETS``.
        network: Key in ``networks.NETWORKS``.
        base: Key in ``methods.OPTIMIZERS``.
        rate: Learning rate.
        batch_size: Samples per batch.
        epochs: Passes over the training images.
        variant: Key in ``VARIANTS``; "base" for the base optimizer itself.
        subset: Number of training images, evenly spaced; None for all.
        schedule: Key in ``settings.SCHEDULES``.
        weight_decay: See ``TrainSettings``.
        augmentation: Key in ``data.AUGMENTATIONS``.
        normalise: Whether images are shifted and scaled to mean 0 and standard deviation 1.

    Raises:
        ValueError: If a name is unknown or a number is out of range.
    """

    dataset: str
    network: str
    base: str
    rate: float
    batch_size: int
    epochs: int
    variant: str = "base"
    subset: int | None = None
    schedule: str = "constant"
    weight_decay: float = 0.0
    augmentation: str = "none"
    normalise: bool = False

    def __post_init__(self) -> None:
        """Check names and numbers."""
        look_up(data.DATASETS, self.dataset, "dataset")
        look_up(networks.NETWORKS, self.network, "network")
        look_up(OPTIMIZERS, self.base, "base")
        look_up(VARIANTS, self.variant, "variant")
        look_up(data.AUGMENTATIONS, self.augmentation, "augmentation")
        _ = self.settings  # checks the rest
        check_integer("batch_size", self.batch_size, 1, MOST_STEPS)
        check_integer("epochs", self.epochs, 1, MOST_EPOCHS)
        if self.subset is not None:  # at least one batch
            check_integer("subset", self.subset, self.batch_size, MOST_STEPS)

    @property
    def settings(self) -> TrainSettings:
        """Settings of the optimizer."""
        return TrainSettings(
            learning_rate=self.rate,
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            **VARIANTS[self.variant].settings,
        )

    @property
    def label(self) -> str:
        """Display name of the method: "Implicit-Adam"."""
        return VARIANTS[self.variant].label.format(OPTIMIZERS[self.base].label)

    @property
    def base_cell(self) -> "Cell":
        """The same cell with the base optimizer alone, with which a variant is compared."""
        return dataclasses.replace(self, variant="base")

    def result_key(self, seed: int) -> str:
        """Return the name under which the result of one run is stored."""
        # Every field of the cell enters the name, so any change leads to a new run.
        content = {"format": RESULT_FORMAT, "seed": seed, **dataclasses.asdict(self)}
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def default_cell(dataset: str, base: str, **changes: Any) -> Cell:
    """Return a cell with the defaults of its data set and base, with changes.

    Args:
        dataset: Key in ``data.DATASETS``.
        base: Key in ``methods.OPTIMIZERS``.
        **changes: Fields of `Cell`.

    Example:
        >>> default_cell("digits", "adam", epochs=2).network
        'residual-conv'
    """
    recipe = recipe_for(dataset)
    values: dict[str, Any] = {
        "network": recipe.network,
        "rate": look_up(OPTIMIZERS, base, "base").learning_rate,
        "batch_size": recipe.batch_size,
        "epochs": recipe.epochs,
        "augmentation": recipe.augmentation,
        "normalise": recipe.normalise,
    }
    return Cell(dataset=dataset, base=base, **(values | changes))


def cell_grid(cell: Cell, **axes: Iterable[Any]) -> Iterator[Cell]:
    """Yield all combinations of the given values of fields.

    Example:
        >>> cell = default_cell("digits", "adam")
        >>> cells = cell_grid(cell, rate=(0.1, 0.3), variant=("base", "implicit"))
        >>> [(cell.rate, cell.variant) for cell in cells]
        [(0.1, 'base'), (0.1, 'implicit'), (0.3, 'base'), (0.3, 'implicit')]
    """
    for values in product(*axes.values()):
        yield dataclasses.replace(cell, **dict(zip(axes, values, strict=True)))
