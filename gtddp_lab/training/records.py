"""Events of a run: progress between epochs, records of epochs, resumptions from a checkpoint."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from gtddp_lab.training.totals import EpochFigures, ReportEntry


@dataclass(frozen=True)
class EpochRecord:
    """Scores of one run after one epoch.

    Attributes:
        method: Name of the method.
        seed: Seed of the run.
        epoch: Number of the epoch, from 1.
        train_loss: Mean loss on the training part after the epoch.
        average_loss: Mean loss of the epoch's batches, each before its step.
        validation_loss: Mean loss on the validation part after the epoch.
        validation_accuracy: Fraction of the validation part that is classified correctly, in
            [0, 1].
        seconds: Wall time of the training steps, without compilation and evaluation. With several
            seeds at once, an equal share for each seed.
        report: Diagnostics of the optimizer over the epoch by name; a number, or a list with one
            number per stage.
        sample_weights: Digest of the watched images' weights after the epoch
            (`watch.weight_digest`); None if no images are watched.
    """

    method: str
    seed: int
    epoch: int
    train_loss: float
    average_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float
    report: dict[str, ReportEntry]
    sample_weights: dict[str, Any] | None = None

    def scalar(self, name: str) -> float:
        """A diagnostic that is one number."""
        entry = self.report[name]
        assert not isinstance(entry, list), f"{name} has one number per stage"
        return entry

    def by_stage(self, name: str) -> list[float]:
        """A diagnostic with one number per stage."""
        entry = self.report[name]
        assert isinstance(entry, list), f"{name} is one number"
        return entry


class TrainingUnit(NamedTuple):
    """What is trained together: one method, with one seed or several at once."""

    method: str
    seeds: tuple[int, ...]

    @property
    def folder_name(self) -> str:
        """A relative path, different for every unit of a run."""
        return f"{self.method}/seed-{'-'.join(map(str, self.seeds))}"


class TrainProgress(NamedTuple):
    """Progress of a unit within an epoch.

    Attributes:
        unit: The unit.
        step: Steps taken since the beginning of the run.
        steps: Steps of the whole run.
        epoch: Number of the running epoch, from 1.
        seconds: Wall time of the steps since the last progress event.
        images: Images processed in these steps, over all seeds.
        figures: Means over the epoch's steps so far, one entry per seed.
    """

    unit: TrainingUnit
    step: int
    steps: int
    epoch: int
    seconds: float
    images: int
    figures: tuple[EpochFigures, ...]


class UnitResumed(NamedTuple):
    """A unit resumes from a checkpoint.

    Attributes:
        unit: The unit.
        step: Steps taken before.
        records: Records of the epochs before.
    """

    unit: TrainingUnit
    step: int
    records: tuple[EpochRecord, ...]


RunEvent = TrainProgress | EpochRecord | UnitResumed
"""What a run yields."""
