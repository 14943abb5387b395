"""Plain training loops for the figures: one seed, an epoch a compiled call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_jax.training.data import Dataset

Tree = Any
LOSS = optax.softmax_cross_entropy_with_integer_labels

CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
"""What is measured after every epoch."""


class Trained(NamedTuple):
    """A network after training.

    Attributes:
        params: its parameters.
        batch_stats: its running statistics; empty without batch normalisation.
        curves: {name of `CURVES`: [epochs]}; empty before training.
    """

    params: Tree
    batch_stats: Tree
    curves: dict[str, np.ndarray]


class Trainer:
    """Trains one network by one optimizer; the programs are compiled once for all seeds.

    Args:
        net: the network.
        optimizer: from the running statistics to begin with (empty without batch normalisation)
            to the optimizer.
        data: the data set.
        batch: samples in a step; what is left of an epoch is dropped.
        limit: use this many training and this many test images at most.

    Raises:
        ValueError: fewer images than one batch.
    """

    def __init__(
        self,
        net: gt.Network,
        optimizer: Callable[[Tree], optax.GradientTransformationExtraArgs],
        data: Dataset,
        batch: int,
        limit: int | None = None,
    ) -> None:
        self._net, self._optimizer, self._batch = net, optimizer, batch
        self._train = tuple(map(jnp.asarray, (data.train_images, data.train_labels)))
        self._train = tuple(part[:limit] for part in self._train)
        self._test = tuple(map(jnp.asarray, (data.validation_images, data.validation_labels)))
        self._test = tuple(part[:limit] for part in self._test)
        if len(self._train[0]) < batch:
            raise ValueError(
                f"{len(self._train[0])} training images do not fill a batch ({batch})."
            )
        self._init = jax.jit(lambda key: net.init_variables(key, self._train[0][:1]))
        self._tx: Any = optimizer(self.start(0).batch_stats)
        self._epoch, self._judge = jax.jit(self._run_epoch), jax.jit(self._score)

    def start(self, seed: int) -> Trained:
        """The network of this seed before training."""
        variables = self._init(jax.random.key(seed))
        return Trained(variables["params"], variables["batch_stats"], {})

    def run(self, seed: int, epochs: int) -> Trained:
        """Trains from the start of this seed, on its order of batches."""
        params = self.start(seed).params
        state, rng = self._tx.init(params), np.random.default_rng(seed)
        curves: list[Any] = []
        for _ in range(epochs):
            order = rng.permutation(len(self._train[0]))
            steps = len(order) // self._batch
            order = order[: steps * self._batch].reshape(steps, self._batch)
            params, state = self._epoch(params, state, order)
            curves.append(jax.device_get(self._judge(params, state.batch_stats)))
        found = np.array(curves, float).reshape(epochs, len(CURVES))
        measured = {name: found[:, i] for i, name in enumerate(CURVES)}
        return Trained(params, state.batch_stats, measured)

    def _run_epoch(self, params: Tree, state: Tree, order: jax.Array) -> tuple[Tree, Tree]:
        def step(carry: tuple[Tree, Tree], index: jax.Array) -> tuple[tuple[Tree, Tree], None]:
            params, state = carry
            batch = tuple(part[index] for part in self._train)
            updates, state = self._tx.update(None, state, params, batch=batch)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), order)[0]

    def _score(self, params: Tree, batch_stats: Tree) -> tuple[jax.Array, ...]:
        scores: list[jax.Array] = []
        for images, labels in (self._train, self._test):
            outputs = self._net.apply(params, images, batch_stats=batch_stats)
            scores += [LOSS(outputs, labels).mean(), (outputs.argmax(-1) == labels).mean()]
        return tuple(scores)
