"""A paired comparison: several methods, the same seeds, data, initial parameters and batches."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import product

from gtddp_jax.training import data, networks
from gtddp_jax.training.checkpoints import Checkpoints
from gtddp_jax.training.clock import Clock
from gtddp_jax.training.methods import OPTIMIZERS, Method, method
from gtddp_jax.training.placement import ONE_DEVICE, Placement
from gtddp_jax.training.records import Event, Unit
from gtddp_jax.training.runner import Plan, Trace, run
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.tables import look_up
from gtddp_jax.training.trainer import Trainer


@dataclass(frozen=True)
class Experiment:
    """What is compared, completely: two equal experiments give equal results.

    Attributes:
        dataset: Key in ``data.DATASETS``.
        network: Key in ``networks.NETWORKS``.
        optimizer: Key in ``methods.OPTIMIZERS``.
        games: Different keys in ``methods.GAMES``, in the order in which they are run.
        settings: What the optimizers are built from.
        epochs: Epochs of every run, positive.
        batch_size: Samples in a batch, positive.
        seeds: Distinct and not negative; one run of every game each.
        augmentation: Key in ``data.AUGMENTATIONS``.
        normalise: Whether every channel is shifted and scaled to mean 0 and deviation 1.
        vmap_seeds: Whether all seeds of a method are trained at once, by ``jax.vmap``.
    """

    dataset: str
    network: str
    optimizer: str
    games: tuple[str, ...]
    settings: Settings
    epochs: int
    batch_size: int
    seeds: tuple[int, ...]
    augmentation: str = "none"
    normalise: bool = False
    vmap_seeds: bool = False

    def __post_init__(self) -> None:
        """Checks names and numbers; the batch size's upper limit is known with the data.

        Raises:
            ValueError: If a name is unknown or a number out of range.
        """
        look_up(data.DATASETS, self.dataset, "dataset")
        look_up(networks.NETWORKS, self.network, "network")
        look_up(data.AUGMENTATIONS, self.augmentation, "augmentation")
        self.methods()
        if len(set(self.games)) < len(self.games):
            raise ValueError(f"games must be different, got {', '.join(self.games)}.")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds must be one or more different numbers from 0 on, got {self.seeds}."
            )

    @property
    def title(self) -> str:
        """What all methods share, in a few words."""
        rate = self.settings.learning_rate
        text = f"{self.dataset}, batch size {self.batch_size}, learning rate {rate:g}"
        return f"{text}, weights {self.settings.weights}" if "implicit" in self.games else text

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The seeds that are trained at once."""
        return (self.seeds,) if self.vmap_seeds else tuple((seed,) for seed in self.seeds)

    def methods(self) -> tuple[Method, ...]:
        """The methods compared, in the order in which they are run."""
        return tuple(method(self.optimizer, game) for game in self.games)


def default_learning_rate(optimizer: str) -> float:
    """The learning rate that a base optimizer and its games have unless told otherwise.

    Raises:
        ValueError: If ``optimizer`` is not in ``OPTIMIZERS``.
    """
    return look_up(OPTIMIZERS, optimizer, "optimizer").learning_rate


def build_trainers(
    experiment: Experiment, dataset: data.Dataset, placement: Placement = ONE_DEVICE
) -> tuple[Trainer, ...]:
    """Moves the data to the device, builds the network and every method's trainer.

    Args:
        experiment: What is compared.
        dataset: What ``data.load`` returns for the experiment's data set.
        placement: Where states and batches live.

    Raises:
        ValueError: If a batch is larger than the training part.
    """
    feed = data.Feed(
        dataset, experiment.augmentation, experiment.normalise, sharding=placement.whole
    )
    net = networks.build(experiment.network, dataset.classes)
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


OpenCheckpoints = Callable[[Unit], AbstractContextManager[Checkpoints | None]]
"""Opens the checkpoints of a unit; None for a run that keeps none."""


def compare(
    experiment: Experiment,
    trainers: tuple[Trainer, ...],
    plan: Plan | None = None,
    checkpoints: OpenCheckpoints = lambda unit: nullcontext(None),
    stop: Callable[[], bool] = lambda: False,
    trace: Trace = nullcontext,
    clock: Clock | None = None,
) -> Iterator[Event]:
    """Runs every seed with every trainer, the methods of one seed directly after one another.

    Args:
        experiment: What is compared.
        trainers: From ``build_trainers``.
        plan: What is done when; by default as many epochs as the experiment has.
        checkpoints: Where states are kept; units that are there already go on or are passed over.
        stop: Asked after every chunk of steps; True ends the comparison, its state saved.
        trace: Opens the trace that ``plan.profile`` asks for, of the first unit.
        clock: What time is spent on is added here.

    Yields:
        What `run` yields, unit by unit.

    Raises:
        CheckpointError: If a checkpoint cannot be written or read.
    """
    plan = Plan(experiment.epochs) if plan is None else plan
    clock = Clock() if clock is None else clock
    for number, (seeds, trainer) in enumerate(product(experiment.groups, trainers)):
        its_plan = plan if number == 0 else replace(plan, profile=None)
        with ExitStack() as closing:
            kept = closing.enter_context(checkpoints(Unit(trainer.method.name, seeds)))
            yield from run(trainer, seeds, its_plan, kept, stop, trace, clock)
            with clock.part(trainer.method.name, "checkpoints"):
                closing.close()
        if stop():
            return
