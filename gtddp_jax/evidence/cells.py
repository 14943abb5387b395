"""One cell of a grid: everything that decides the outcome of a training run but its seed."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from gtddp_jax.evidence.variants import VARIANTS
from gtddp_jax.training import data, networks
from gtddp_jax.training.methods import OPTIMIZERS
from gtddp_jax.training.recipes import recipe
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.tables import look_up

FORMAT = 1
"""Raised when the meaning of a stored result changes; older results are then computed again."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A data set, a network, a base optimizer with its numbers, and a variant of it.

    Attributes:
        dataset: Key in ``data.DATASETS``.
        network: Key in ``networks.NETWORKS``.
        base: Key in ``methods.OPTIMIZERS``.
        rate: Learning rate.
        batch_size: Samples in a batch.
        epochs: Passes over the training images.
        variant: Key in ``VARIANTS``; "base" for the base optimizer itself.
        subset: So many training images, evenly spaced; None for all.
        schedule: Key in ``settings.SCHEDULES``.
        weight_decay: See ``Settings``.
        augmentation: Key in ``data.AUGMENTATIONS``.
        normalise: Whether images are shifted and scaled to mean 0 and deviation 1.

    Raises:
        ValueError: If a name is unknown or a number out of range.
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
        """Checks names and numbers."""
        look_up(data.DATASETS, self.dataset, "dataset")
        look_up(networks.NETWORKS, self.network, "network")
        look_up(OPTIMIZERS, self.base, "base")
        look_up(VARIANTS, self.variant, "variant")
        look_up(data.AUGMENTATIONS, self.augmentation, "augmentation")
        _ = self.settings
        for name in ("batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.subset is not None and self.subset < self.batch_size:
            raise ValueError(
                f"subset must be at least the batch size {self.batch_size}, got {self.subset}."
            )

    @property
    def settings(self) -> Settings:
        """What the optimizer is built from."""
        return Settings(
            learning_rate=self.rate,
            schedule=self.schedule,
            weight_decay=self.weight_decay,
            **VARIANTS[self.variant].settings,
        )

    @property
    def label(self) -> str:
        """The method's name for people: "Implicit-Adam"."""
        return VARIANTS[self.variant].label.format(OPTIMIZERS[self.base].label)

    @property
    def setting(self) -> "Cell":
        """The same cell with the base optimizer alone: what a variant is paired with."""
        return dataclasses.replace(self, variant="base")

    def key(self, seed: int) -> str:
        """The name of one run's stored result."""
        content = {"format": FORMAT, "seed": seed, **dataclasses.asdict(self)}
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def usual(dataset: str, base: str, **changes: Any) -> Cell:
    """The cell that `gtddp train` would run by default, with changes.

    Args:
        dataset: Key in ``data.DATASETS``.
        base: Key in ``methods.OPTIMIZERS``.
        **changes: Fields of `Cell`.

    Example:
        >>> usual("digits", "adam", epochs=2).network
        'residual-conv'
    """
    wont = recipe(dataset)
    values: dict[str, Any] = {
        "network": wont.network,
        "rate": look_up(OPTIMIZERS, base, "base").learning_rate,
        "batch_size": wont.batch_size,
        "epochs": wont.epochs,
        "augmentation": wont.augmentation,
        "normalise": wont.normalise,
    }
    return Cell(dataset=dataset, base=base, **(values | changes))


def grid(cell: Cell, **axes: Iterable[Any]) -> Iterator[Cell]:
    """All combinations: `grid(cell, rate=(0.1, 0.3), variant=("base", "implicit"))`.

    Example:
        >>> cells = grid(usual("digits", "adam"), rate=(0.1, 0.3), variant=("base", "implicit"))
        >>> [(c.rate, c.variant) for c in cells]
        [(0.1, 'base'), (0.1, 'implicit'), (0.3, 'base'), (0.3, 'implicit')]
    """
    for values in product(*axes.values()):
        yield dataclasses.replace(cell, **dict(zip(axes, values, strict=True)))
