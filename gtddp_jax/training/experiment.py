"""A paired comparison: several methods, the same seeds, data, initial parameters and batches."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_jax.training import data, loop, networks
from gtddp_jax.training.methods import OPTIMIZERS, Method, Settings, method
from gtddp_jax.training.steps import Params
from gtddp_jax.training.tables import look_up

LOSS = optax.softmax_cross_entropy_with_integer_labels
"""Loss of one sample: outputs [batch, classes] and labels [batch] to [batch]."""


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
    """

    dataset: str
    network: str
    optimizer: str
    games: tuple[str, ...]
    settings: Settings
    epochs: int
    batch_size: int
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        """Checks names and numbers; the batch size's upper limit is known with the data.

        Raises:
            ValueError: If a name is unknown or a number out of range.
        """
        look_up(data.DATASETS, self.dataset, "dataset")
        look_up(networks.NETWORKS, self.network, "network")
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

    def methods(self) -> tuple[Method, ...]:
        """The methods compared, in the order in which they are run."""
        return tuple(method(self.optimizer, game) for game in self.games)


def default_learning_rate(optimizer: str) -> float:
    """The learning rate that a base optimizer and its games have unless told otherwise.

    Raises:
        ValueError: If ``optimizer`` is not in ``OPTIMIZERS``.
    """
    return look_up(OPTIMIZERS, optimizer, "optimizer").learning_rate


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
        seconds: Wall time of the training steps; neither compilation nor scoring.
        report: What the optimizer reported over the epoch, by name; a number, or a list with one
            number per stage.
    """

    method: str
    seed: int
    epoch: int
    train_loss: float
    average_loss: float
    validation_loss: float
    validation_accuracy: float
    seconds: float
    report: dict[str, Any]


def initial_params(net: gt.Network, dataset: data.Dataset, seed: int) -> Params:
    """Draws a run's initial parameters: a function of the seed, the same for every method."""
    return net.init(jax.random.key(seed), jnp.asarray(dataset.train_images[:1]))


class Trainer:
    """One method, compiled for one network, data set and batch size.

    Attributes:
        method: What trains.
        compile_seconds: Wall time of the compilation; 0 before the first run.
    """

    def __init__(
        self,
        method: Method,
        net: gt.Network,
        dataset: data.Dataset,
        settings: Settings,
        batch_size: int,
    ) -> None:
        """Builds the optimizer and moves the data to the device; the first run compiles.

        Args:
            method: What trains.
            net: What is trained.
            dataset: What is learned.
            settings: What the method's optimizer is built from.
            batch_size: Samples in a batch.

        Raises:
            ValueError: If a batch is larger than the training part.
        """
        samples = len(dataset.train_labels)
        if batch_size > samples:
            raise ValueError(
                f"batch_size must be at most {samples}, the training images of {dataset.name}, "
                f"got {batch_size}."
            )
        self.method = method
        self.compile_seconds = 0.0
        self._net, self._dataset, self._batch_size = net, dataset, batch_size
        self._optimizer = method.build(net, LOSS, settings)
        self._train_part = (jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels))
        self._validation_part = (
            jnp.asarray(dataset.validation_images),
            jnp.asarray(dataset.validation_labels),
        )

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        return loop.batch_order(seed, epoch, len(self._dataset.train_labels), self._batch_size)

    @cached_property
    def _step(self) -> loop.BatchStep:
        params = initial_params(self._net, self._dataset, seed=0)
        state = self._optimizer.init(params)
        step = jax.jit(loop.batch_step(self.method.step(self._net, LOSS, self._optimizer)))
        start = time.perf_counter()
        compiled = step.lower(params, state, *self._train_part, self._order(0, 1)[0]).compile()
        self.compile_seconds = time.perf_counter() - start
        return compiled

    def run(self, seed: int, epochs: int) -> Iterator[EpochRecord]:
        """Trains from scratch; yields after every epoch. Compiles first where it is the first run.

        Args:
            seed: Determines initial parameters and batches.
            epochs: Number of epochs.
        """
        step = self._step
        params = initial_params(self._net, self._dataset, seed)
        state = self._optimizer.init(params)
        for epoch in range(1, epochs + 1):
            order = self._order(seed, epoch)
            start = time.perf_counter()
            result = loop.train_epoch(step, params, state, *self._train_part, order)
            seconds = time.perf_counter() - start
            params, state = result.params, result.state
            train = loop.evaluate(self._net, LOSS, params, *self._train_part)
            validation = loop.evaluate(self._net, LOSS, params, *self._validation_part)
            yield EpochRecord(
                method=self.method.name,
                seed=seed,
                epoch=epoch,
                train_loss=train.loss,
                average_loss=float(np.mean(result.losses)),
                validation_loss=validation.loss,
                validation_accuracy=validation.accuracy,
                seconds=seconds,
                report=loop.reduce_reports(result.reports),
            )


def build_trainers(experiment: Experiment) -> tuple[Trainer, ...]:
    """Loads the data and builds the network and every method's trainer.

    Raises:
        ValueError: If a batch is larger than the training part.
    """
    dataset = data.load(experiment.dataset)
    net = networks.build(experiment.network, dataset.classes)
    return tuple(
        Trainer(method, net, dataset, experiment.settings, experiment.batch_size)
        for method in experiment.methods()
    )


def compare(experiment: Experiment, trainers: tuple[Trainer, ...]) -> Iterator[EpochRecord]:
    """Runs every seed with every trainer, the methods of one seed directly after one another."""
    for seed in experiment.seeds:
        for trainer in trainers:
            yield from trainer.run(seed, experiment.epochs)
