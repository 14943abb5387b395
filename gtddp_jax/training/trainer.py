"""A method, ready to train one network on one data set."""

from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_jax.training import loop, totals
from gtddp_jax.training.data import Dataset
from gtddp_jax.training.methods import Method
from gtddp_jax.training.problem import LOSS
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.state import Params, TrainState
from gtddp_jax.training.steps import advance


def initial_params(net: gt.Network, dataset: Dataset, seed: int) -> Params:
    """Draws a run's initial parameters: a function of the seed, the same for every method."""
    return net.init(jax.random.key(seed), jnp.asarray(dataset.train_images[:1]))


class Trainer:
    """One method, compiled for one network, data set and batch size.

    Attributes:
        method: What trains.
        batch_size: Samples in a batch.
        steps_per_epoch: Full batches in an epoch.
    """

    def __init__(
        self,
        method: Method,
        net: gt.Network,
        dataset: Dataset,
        settings: Settings,
        batch_size: int,
        epochs: int = 1,
        dispatch: str | None = None,
    ) -> None:
        """Builds the optimizer and moves the data to the device; the first step compiles.

        Args:
            method: What trains.
            net: What is trained.
            dataset: What is learned.
            settings: What the method's optimizer is built from.
            batch_size: Samples in a batch.
            epochs: Epochs of the whole run, for the learning rate's schedule.
            dispatch: Key in ``loop.DISPATCHES``; by default that of the platform.

        Raises:
            ValueError: If a batch is larger than the training part.
        """
        samples = len(dataset.train_labels)
        if batch_size > samples:
            raise ValueError(
                f"batch_size must be at most {samples}, the training images of {dataset.name}, "
                f"got {batch_size}."
            )
        self.method, self.batch_size = method, batch_size
        self.steps_per_epoch = samples // batch_size
        self._net, self._dataset = net, dataset
        self._optimizer = method.build(
            net, LOSS, settings, settings.rate(epochs * self.steps_per_epoch)
        )
        step = method.step(net, LOSS, self._optimizer, settings.weight_decay)
        self._step, self._advance = step, advance(step)
        self._dispatch = dispatch
        self._train = (jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels))
        self._validation = (
            jnp.asarray(dataset.validation_images),
            jnp.asarray(dataset.validation_labels),
        )
        self._rows = lru_cache(maxsize=1)(self._draw_rows)

    @property
    def compile_seconds(self) -> float:
        """Wall time of the compilations of steps so far."""
        return sum(
            self.__dict__[name].compile_seconds
            for name in ("_one_seed", "_many_seeds")
            if name in self.__dict__
        )

    def start(self, seeds: tuple[int, ...]) -> TrainState:
        """The state before the first step: of one run, or of several seeds along a leading axis."""
        states = [self._start(seed) for seed in seeds]
        return states[0] if len(seeds) == 1 else jax.tree.map(lambda *xs: jnp.stack(xs), *states)

    def _start(self, seed: int) -> TrainState:
        params = initial_params(self._net, self._dataset, seed)
        state = TrainState(
            params=params,
            opt_state=self._optimizer.init(params),
            batch_stats={},
            step=jnp.zeros((), jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            totals=totals.empty(self._report),
        )
        return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.result_type(x)), state)

    @cached_property
    def _report(self) -> dict[str, Any]:
        def first_step() -> Any:
            params = initial_params(self._net, self._dataset, 0)
            zero = jnp.zeros((), jnp.int32)
            state = TrainState(params, self._optimizer.init(params), {}, zero, zero, totals.empty({}))
            return self._step(state, self._pick(self._train, np.zeros(self.batch_size, np.int32)))

        return jax.eval_shape(first_step).report

    def _pick(self, part: Any, row: Any) -> Any:
        return part[0][row], part[1][row]

    def _row_step(self, state: TrainState, part: Any, row: Any) -> TrainState:
        return self._advance(state, self._pick(part, row))

    @cached_property
    def _one_seed(self) -> loop.Steps:
        return loop.Steps(self._row_step, self._dispatch)

    @cached_property
    def _many_seeds(self) -> loop.Steps:
        return loop.Steps(jax.vmap(self._row_step, in_axes=(0, None, 0)), self._dispatch)

    def _draw_rows(self, seeds: tuple[int, ...], epoch: int) -> np.ndarray:
        samples = len(self._dataset.train_labels)
        orders = [loop.batch_order(seed, epoch, samples, self.batch_size) for seed in seeds]
        return orders[0] if len(seeds) == 1 else np.stack(orders, axis=1)

    def rows(self, seeds: tuple[int, ...], step: int, count: int) -> np.ndarray:
        """The batches of some steps of one epoch.

        Args:
            seeds: Seeds of the runs.
            step: Steps taken before.
            count: Number of steps; they end with the epoch at the latest.

        Returns:
            Indices into the training part, int32; [count, batch], for several seeds
            [count, seeds, batch].
        """
        epoch, first = divmod(step, self.steps_per_epoch)
        return self._rows(seeds, epoch + 1)[first : first + count]

    def compile(self, state: TrainState, rows: np.ndarray) -> None:
        """Compiles what ``train`` with the same arguments will need."""
        self._steps(state).compile(state, self._train, rows)

    def train(self, state: TrainState, rows: np.ndarray) -> TrainState:
        """Takes one step for every row of ``rows``; the state that goes in is used up."""
        return self._steps(state)(state, self._train, rows)

    def _steps(self, state: TrainState) -> loop.Steps:
        return self._many_seeds if state.step.ndim else self._one_seed

    def new_epoch(self, state: TrainState) -> TrainState:
        """The state with empty totals."""
        empty = totals.empty(self._report)
        if state.step.ndim:
            seeds = state.step.shape
            empty = jax.tree.map(lambda x: jnp.broadcast_to(x, seeds + x.shape).copy(), empty)
        return state._replace(totals=empty)

    def figures(self, state: TrainState) -> tuple[totals.Figures, ...]:
        """What the running epoch's steps come to, one entry for each seed."""
        host = jax.device_get(state.totals)
        if not state.step.ndim:
            return (totals.read(host),)
        runs = range(state.step.shape[0])
        return tuple(totals.read(jax.tree.map(lambda x, i=i: x[i], host)) for i in runs)

    def score_train(self, state: TrainState) -> list[loop.Score]:
        """Scores on the training part, one for each seed."""
        return loop.evaluate(self._net, LOSS, state, *self._train)

    def score_validation(self, state: TrainState) -> list[loop.Score]:
        """Scores on the validation part, one for each seed."""
        return loop.evaluate(self._net, LOSS, state, *self._validation)
