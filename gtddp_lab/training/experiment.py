"""Paired comparisons: several methods with the same seeds, data, initial parameters and batches."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import product

from gtddp_lab import data, networks
from gtddp_lab.core.bounds import check_integer
from gtddp_lab.core.look_up import look_up
from gtddp_lab.training.checkpoints import Checkpoints
from gtddp_lab.training.clock import RunClock
from gtddp_lab.training.methods import OPTIMIZERS, TrainingMethod, build_method
from gtddp_lab.training.placement import ONE_DEVICE, Placement
from gtddp_lab.training.recipes import recipe_for
from gtddp_lab.training.records import RunEvent, TrainingUnit
from gtddp_lab.training.runner import OpenTrace, RunPlan, run_unit
from gtddp_lab.training.settings import (
    LARGEST_SEED,
    MOST_EPOCHS,
    MOST_SEEDS,
    MOST_STEPS,
    TrainSettings,
)
from gtddp_lab.training.trainer import Trainer


@dataclass(frozen=True)
class Experiment:
    """A complete description of a comparison: equal experiments give equal results.

    Attributes:
        dataset: Key in ``data.DATASETS``.
        network: Key in ``networks.NETWORKS``.
        optimizer: Key in ``methods.OPTIMIZERS``.
        games: Different keys in ``methods.GAMES``, in the order in which they run.
        settings: Settings of the optimizers.
        epochs: Epochs of every run, positive.
        batch_size: Samples in a batch, positive.
        seeds: Distinct seeds, from 0 to 2**32 - 1; every game runs once per seed.
        augmentation: Key in ``data.AUGMENTATIONS``.
        normalise: Whether every channel is shifted and scaled to mean 0 and standard deviation 1.
        vmap_seeds: Whether all seeds of a method are trained at once, by ``jax.vmap``.
        rival: Key in ``methods.OPTIMIZERS`` of another optimizer, run alone after the first of
            ``games``; None for no other.
    """

    dataset: str
    network: str
    optimizer: str
    games: tuple[str, ...]
    settings: TrainSettings
    epochs: int
    batch_size: int
    seeds: tuple[int, ...]
    augmentation: str = "none"
    normalise: bool = False
    vmap_seeds: bool = False
    rival: str | None = None

    def __post_init__(self) -> None:
        """Checks names and numbers, except for the upper limit of the batch size.

        Raises:
            ValueError: If a name is unknown or a number is out of range.
        """
        look_up(data.DATASETS, self.dataset, "dataset")
        look_up(networks.NETWORKS, self.network, "network")
        look_up(data.AUGMENTATIONS, self.augmentation, "augmentation")
        self.methods()  # checks the optimizer, the games and the rival
        if self.rival == self.optimizer:
            raise ValueError(f"rival must be another optimizer than {self.optimizer}.")
        if len(set(self.games)) < len(self.games):
            raise ValueError(f"games must be different, got {', '.join(self.games)}.")
        check_integer("epochs", self.epochs, 1, MOST_EPOCHS)
        check_integer("batch_size", self.batch_size, 1, MOST_STEPS)
        check_integer("the number of seeds", len(self.seeds), 1, MOST_SEEDS)
        for seed in self.seeds:
            check_integer("a seed", seed, 0, LARGEST_SEED)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different, got {', '.join(map(str, self.seeds))}.")
        for name in ("normalise", "vmap_seeds"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}.")

    @property
    def title(self) -> str:
        """What all methods have in common, in a few words."""
        rate = self.settings.learning_rate
        text = f"{self.dataset}, batch size {self.batch_size}, learning rate {rate:g}"
        if self.settings.schedule != "constant":
            averages = OPTIMIZERS[self.optimizer].average is not None
            note = ", constant for averages" if averages else ""
            text += f" ({self.settings.schedule}{note})"
        if "implicit" not in self.games:
            return text
        return f"{text}, weighting {self.settings.weighting}"

    @property
    def seed_groups(self) -> tuple[tuple[int, ...], ...]:
        """The seeds, grouped by what is trained at once."""
        return (self.seeds,) if self.vmap_seeds else tuple((seed,) for seed in self.seeds)

    def methods(self) -> tuple[TrainingMethod, ...]:
        """The methods, in the order in which they run."""
        base, *games = (build_method(self.optimizer, game) for game in self.games)
        rivals = () if self.rival is None else (build_method(self.rival, "none"),)
        return (base, *rivals, *games)


def default_learning_rate(dataset: str, optimizer: str) -> float:
    """The default learning rate of a base optimizer and its games on a data set.

    Raises:
        ValueError: If ``dataset`` is not in ``RECIPES`` or ``optimizer`` not in ``OPTIMIZERS``.
    """
    default = look_up(OPTIMIZERS, optimizer, "optimizer").learning_rate
    return recipe_for(dataset).learning_rates.get(optimizer, default)


def build_trainers(
    experiment: Experiment, dataset: data.Dataset, placement: Placement = ONE_DEVICE
) -> tuple[Trainer, ...]:
    """Moves the data to the device, builds the network and a trainer for every method.

    Args:
        experiment: The comparison.
        dataset: The data set of the experiment, as returned by ``data.load_dataset``.
        placement: Where states and batches live.

    Raises:
        ValueError: If a batch is larger than the training part.
    """
    feed = data.Feed(
        dataset, experiment.augmentation, experiment.normalise, sharding=placement.state_sharding
    )
    net = networks.build_network(experiment.network, dataset.classes)
    return tuple(
        Trainer(
            method,
            net,
            feed,
            experiment.settings,
            experiment.batch_size,
            experiment.epochs,
            placement=placement,
        )
        for method in experiment.methods()
    )


OpenCheckpoints = Callable[[TrainingUnit], AbstractContextManager[Checkpoints | None]]
"""Opens the checkpoints of a unit; None if the run keeps none."""


def run_comparison(
    experiment: Experiment,
    trainers: tuple[Trainer, ...],
    plan: RunPlan | None = None,
    checkpoints: OpenCheckpoints = lambda unit: nullcontext(None),
    stop: Callable[[], bool] = lambda: False,
    trace: OpenTrace = nullcontext,
    clock: RunClock | None = None,
) -> Generator[RunEvent, None, None]:
    """Runs every trainer with every seed; all methods of one seed run before the next seed.

    Args:
        experiment: The comparison.
        trainers: The result of ``build_trainers``.
        plan: When to log, score and save; by default only at the end of every epoch.
        checkpoints: Opens the checkpoints of a unit. Units with checkpoints resume from the newest
            one; finished units are skipped.
        stop: Called after every chunk of steps; True saves the state and ends the comparison.
        trace: Opens the trace that ``plan.profile`` requests; only the first unit is traced.
        clock: Receives the time spent.

    Yields:
        The events of `run_unit`, unit after unit.

    Raises:
        CheckpointError: If a checkpoint cannot be written or read.
    """
    plan = RunPlan(experiment.epochs) if plan is None else plan
    clock = RunClock() if clock is None else clock
    # Seed by seed: an interrupted comparison has complete pairs of all seeds but the last.
    for number, (seeds, trainer) in enumerate(product(experiment.seed_groups, trainers)):
        unit_plan = plan if number == 0 else replace(plan, profile=None)
        method = trainer.method.name
        with ExitStack() as stack:
            unit_checkpoints = stack.enter_context(checkpoints(TrainingUnit(method, seeds)))
            yield from run_unit(trainer, seeds, unit_plan, unit_checkpoints, stop, trace, clock)
            # Closing waits for the checkpoint that is still being written, so it is timed.
            with clock.measure(method, "checkpoints"):
                stack.close()
        if stop():
            return
