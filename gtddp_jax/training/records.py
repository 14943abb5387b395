"""What a run says about itself as it goes: figures between epochs, scores after them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from gtddp_jax.training.totals import Figures

if TYPE_CHECKING:  # which of the two it is, its name says
    Entry = Any
else:
    Entry = float | list[float]
    """What an optimizer reports by one name: a number, or one for each stage."""


@dataclass(frozen=True)
class EpochRecord:
    """Scores of one epoch of one run.

    Attributes:
        method: Name of the method.
        seed: Seed of the run.
        epoch: Number of the epoch, from 1.
        train_loss: Mean loss of the training part after the epoch.
        average_loss: Running average: mean loss of the epoch's batches, each before its step.
        validation_loss: Mean loss of the validation part after the epoch.
        validation_accuracy: Fraction of the validation part classified rightly, in [0, 1].
        seconds: Wall time of the training steps; neither compilation nor scoring. With several
            seeds at once, the seed's equal share.
        report: What the optimizer reported over the epoch, by name; a number, or a list with one
            number per stage.
        weights: What `watch.digest` keeps of the watched images' weights after the epoch; None
            where none are watched.
    """

    method: str
    seed: int
    epoch: int
    train_loss: float
    average_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float
    report: dict[str, Entry]
    weights: dict[str, Any] | None = None


class Unit(NamedTuple):
    """What is trained in one go: a method, with one seed or with several at once."""

    method: str
    seeds: tuple[int, ...]

    @property
    def folder(self) -> str:
        """A relative path of its own."""
        return f"{self.method}/seed-{'-'.join(map(str, self.seeds))}"


class Progress(NamedTuple):
    """Where a unit is, after some steps.

    Attributes:
        unit: The unit.
        step: Steps taken since the beginning of the run.
        steps: Steps of the whole run.
        epoch: Number of the running epoch, from 1.
        seconds: Wall time of the steps since the last progress.
        images: Images that these steps have seen, of all seeds.
        figures: What the epoch's steps so far come to, one entry for each seed.
    """

    unit: Unit
    step: int
    steps: int
    epoch: int
    seconds: float
    images: int
    figures: tuple[Figures, ...]


class Resumed(NamedTuple):
    """A unit goes on from a checkpoint.

    Attributes:
        unit: The unit.
        step: Steps taken before.
        records: Records of the epochs before.
    """

    unit: Unit
    step: int
    records: tuple[EpochRecord, ...]


Event = Progress | EpochRecord | Resumed
"""What a run yields."""
