"""A plain training loop for the figures: one seed, one compiled call per epoch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_lab.data import Dataset
from gtddp_lab.training.state import BatchStats, Params

CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels

MEASURED_CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
"""Quantities measured after every epoch."""


class TrainedNetwork(NamedTuple):
    """A network after training.

    Attributes:
        params: its parameters.
        batch_stats: its running statistics; empty without batch normalisation.
        curves: [epochs] for each of `MEASURED_CURVES`; empty before training.
    """

    params: Params
    batch_stats: BatchStats
    curves: dict[str, np.ndarray]


class FigureTrainer:
    """Trains one network with one optimizer; programs are compiled once for all seeds.

    Args:
        net: the network.
        make_optimizer: makes the optimizer from the initial running statistics (empty without batch
            normalisation).
        dataset: the data set.
        batch_size: samples per step; an incomplete last batch of an epoch is dropped.
        limit: largest number of training and of test images.

    Raises:
        ValueError: there are fewer images than one batch needs.
    """

    def __init__(
        self,
        net: gt.Network,
        make_optimizer: Callable[[BatchStats], optax.GradientTransformationExtraArgs],
        dataset: Dataset,
        batch_size: int,
        limit: int | None = None,
    ) -> None:
        self._net, self._batch_size = net, batch_size
        self._train = tuple(map(jnp.asarray, (dataset.train_images, dataset.train_labels)))
        self._train = tuple(array[:limit] for array in self._train)
        self._test = tuple(map(jnp.asarray, (dataset.validation_images, dataset.validation_labels)))
        self._test = tuple(array[:limit] for array in self._test)
        if len(self._train[0]) < batch_size:
            raise ValueError(
                f"{len(self._train[0])} training images do not fill a batch ({batch_size})."
            )
        # Compiled once, because initialisation traces the whole network.
        self._init = jax.jit(lambda key: net.init_variables(key, self._train[0][:1]))
        self._tx: Any = make_optimizer(self.start(0).batch_stats)
        self._compiled_epoch = jax.jit(self._run_epoch)
        self._compiled_scores = jax.jit(self._score_network)

    def start(self, seed: int) -> TrainedNetwork:
        """Return the network of this seed before training."""
        variables = self._init(jax.random.key(seed))
        return TrainedNetwork(variables["params"], variables["batch_stats"], {})

    def train(self, seed: int, epochs: int) -> TrainedNetwork:
        """Train from the start of this seed, on its order of batches."""
        params = self.start(seed).params
        state, rng = self._tx.init(params), np.random.default_rng(seed)
        curves: list[Any] = []
        for _ in range(epochs):
            # The order depends only on the seed: all methods see the same batches.
            order = rng.permutation(len(self._train[0]))
            steps = len(order) // self._batch_size
            order = order[: steps * self._batch_size].reshape(steps, self._batch_size)
            params, state = self._compiled_epoch(params, state, order)
            curves.append(jax.device_get(self._compiled_scores(params, state.batch_stats)))
        table = np.array(curves, float).reshape(epochs, len(MEASURED_CURVES))
        measured = {name: table[:, column] for column, name in enumerate(MEASURED_CURVES)}
        return TrainedNetwork(params, state.batch_stats, measured)

    def _run_epoch(self, params: Params, state: Any, order: jax.Array) -> tuple[Params, Any]:
        def step(carry: tuple[Any, Any], index: jax.Array) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            batch = tuple(array[index] for array in self._train)
            updates, state = self._tx.update(None, state, params, batch=batch)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), order)[0]

    def _score_network(self, params: Params, batch_stats: BatchStats) -> tuple[jax.Array, ...]:
        scores: list[jax.Array] = []
        for images, labels in (self._train, self._test):
            outputs = self._net.apply(params, images, batch_stats=batch_stats)
            scores += [CROSS_ENTROPY(outputs, labels).mean(), (outputs.argmax(-1) == labels).mean()]
        return tuple(scores)
