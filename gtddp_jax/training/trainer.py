"""A method, ready to train one network on one data set."""

from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_jax.network.facts import StageFacts, facts
from gtddp_jax.training import loop, totals
from gtddp_jax.training.data import Feed, Part, epoch_order, position, steps_per_epoch
from gtddp_jax.training.methods import Method
from gtddp_jax.training.placement import ONE_DEVICE, Placement
from gtddp_jax.training.problem import LOSS
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.state import TrainState, step_key
from gtddp_jax.training.steps import advance
from gtddp_jax.training.watch import Watch, pictures, watched_rows

SCORED_TRAINING_IMAGES = 10_000
"""Training images, evenly spaced, that are scored after an epoch; all where there are fewer."""


def initial_variables(net: gt.Network, feed: Feed, seed: int) -> dict[str, Any]:
    """A run's first ``params`` and ``batch_stats``: the same for every method.

    Args:
        net: The network.
        feed: The data, for the shape of an image.
        seed: The run's seed, on which the parameters depend and the statistics do not.
    """
    return _initialise(net, jax.random.key(seed), feed.train.images[:1])


@partial(jax.jit, static_argnums=0)  # compiled once for all seeds and methods
def _initialise(net: gt.Network, key: jax.Array, images: jax.Array) -> dict[str, Any]:
    return net.init_variables(key, images)


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
        feed: Feed,
        settings: Settings,
        batch_size: int,
        epochs: int = 1,
        dispatch: str | None = None,
        placement: Placement = ONE_DEVICE,
    ) -> None:
        """Builds the optimizer; the first step compiles.

        Args:
            method: What trains.
            net: What is trained.
            feed: What is learned, on the device.
            settings: What the method's optimizer is built from.
            batch_size: Samples in a batch.
            epochs: Epochs of the whole run, for the learning rate's schedule.
            dispatch: Key in ``loop.DISPATCHES``; by default that of the platform.
            placement: Where the state and the batches' indices live.

        Raises:
            ValueError: If a batch is larger than the training part, or cannot be divided among the
                devices.
        """
        self.method: Method = method
        self.batch_size: int = batch_size
        self.steps_per_epoch: int = steps_per_epoch(feed.samples, batch_size)
        placement.check_batch(batch_size)
        self._net, self._feed, self._placement, self._dispatch = net, feed, placement, dispatch
        first = initial_variables(net, feed, seed=0)
        rate = settings.rate(epochs * self.steps_per_epoch)
        self._optimizer = method.build(net, LOSS, settings, rate, first["batch_stats"])
        self._step = method.step(net, LOSS, self._optimizer, settings.weight_decay)
        self._advance = advance(self._step)
        self._report: dict[str, Any] = {}
        self._report = self._reported(first)
        self._params = jax.eval_shape(lambda: first["params"])
        self._rows = lru_cache(maxsize=1)(self._draw_rows)
        self._watch = lru_cache(maxsize=1)(self._make_watch)

    @cached_property
    def stages(self) -> tuple[StageFacts, ...]:
        """The game at the batch's shape."""
        images = self._feed.train.images
        batch = jax.ShapeDtypeStruct((self.batch_size, *images.shape[1:]), images.dtype)
        return facts(self._net, self._params, batch)

    @property
    def compile_seconds(self) -> float:
        """Wall time of the compilations of steps so far."""
        ready = [self.__dict__.get(name) for name in ("_one_seed", "_many_seeds")]
        return sum(steps.compile_seconds for steps in ready if steps is not None)

    def start(self, seeds: tuple[int, ...]) -> TrainState:
        """The state before the first step: of one run, or of several seeds along a leading axis."""
        states = [self._start(initial_variables(self._net, self._feed, s), s) for s in seeds]
        state = states[0] if len(seeds) == 1 else jax.tree.map(lambda *x: jnp.stack(x), *states)
        return self._placement.put_state(state)

    def _start(self, variables: dict[str, Any], seed: int) -> TrainState:
        opt_state: Any = self._optimizer.init(variables["params"])
        for own in ("batch_stats", "aux"):  # once only: beside the parameters
            if hasattr(opt_state, own) and getattr(opt_state, own) is not None:
                opt_state = opt_state._replace(**{own: {}})
        state = TrainState(
            params=variables["params"],
            opt_state=opt_state,
            batch_stats=variables["batch_stats"],
            step=jnp.zeros((), jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            totals=totals.empty(self._report),
        )
        return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.result_type(x)), state)

    def _reported(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Shapes and dtypes of what a step reports."""
        rows = np.zeros(self.batch_size, np.int32)

        def first_step(part: Part) -> Any:
            state = self._start(variables, seed=0)
            return self._step(state, self._feed.batch(part, rows, step=0), step_key(state))

        return jax.eval_shape(first_step, self._feed.train).report

    def _row_step(self, state: TrainState, part: Part, row: Any) -> TrainState:
        batch = self._feed.batch(part, row, state.step, seed=state.seed)
        return self._advance(state, batch)

    @cached_property
    def _one_seed(self) -> loop.Steps:
        return loop.Steps(self._row_step, self._dispatch, self._placement)

    @cached_property
    def _many_seeds(self) -> loop.Steps:
        many = jax.vmap(self._row_step, in_axes=(0, None, 0))
        return loop.Steps(many, self._dispatch, self._placement)

    def _steps(self, state: TrainState) -> loop.Steps:
        return self._many_seeds if state.step.ndim else self._one_seed

    def _draw_rows(self, seeds: tuple[int, ...], epoch: int) -> np.ndarray:
        orders = [epoch_order(s, epoch, self._feed.samples, self.batch_size) for s in seeds]
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
        epoch, first = position(step, self._feed.samples, self.batch_size)
        return self._rows(seeds, epoch)[first : first + count]

    def compile(self, state: TrainState, rows: np.ndarray) -> None:
        """Compiles what ``train`` with the same arguments will need."""
        self._steps(state).compile(state, self._feed.train, rows)

    def train(self, state: TrainState, rows: np.ndarray) -> TrainState:
        """Takes one step for every row of ``rows``; the state that goes in is used up."""
        return self._steps(state)(state, self._feed.train, rows)

    def new_epoch(self, state: TrainState) -> TrainState:
        """The state with empty totals."""
        empty, seeds = totals.empty(self._report), state.step.shape
        spread = jax.tree.map(lambda x: jnp.broadcast_to(x, seeds + x.shape).copy(), empty)
        return state._replace(totals=self._placement.put_state(spread))

    def figures(self, state: TrainState) -> tuple[totals.Figures, ...]:
        """What the running epoch's steps come to, one entry for each seed."""
        host = jax.device_get(state.totals)
        if not state.step.ndim:
            return (totals.read(host),)
        runs = range(state.step.shape[0])
        return tuple(totals.read(jax.tree.map(lambda x, i=i: x[i], host)) for i in runs)

    def _make_watch(self, images: int) -> Watch:
        return Watch(self._step, self._feed, self._placement, self.watched(images))

    @cached_property
    def _scored(self) -> Part:
        train, samples = self._feed.train, self._feed.samples
        if samples <= SCORED_TRAINING_IMAGES:
            return train
        places = np.linspace(0, samples - 1, SCORED_TRAINING_IMAGES).astype(np.int32)
        return Part(train.images[places], train.labels[places])

    def score_train(self, state: TrainState) -> list[loop.Score]:
        """Scores on ``SCORED_TRAINING_IMAGES`` of the training part, one for each seed."""
        return loop.evaluate(self._net, LOSS, state, *self._scored, self._feed.normalise)

    def watched(self, images: int) -> np.ndarray:
        """Indices [batches, batch] of about so many watched images, see `watched_rows`."""
        return watched_rows(self._feed.samples, self.batch_size, images)

    def watch(self, state: TrainState, images: int) -> list[dict[str, Any]]:
        """What about so many watched images weigh, see `watch.digest`; one for each seed."""
        return self._watch(images)(state)

    def pictures(self, images: int) -> dict[str, Any]:
        """The watched images themselves, see `watch.pictures`."""
        return pictures(self._feed, self.watched(images))

    def score_validation(self, state: TrainState) -> list[loop.Score]:
        """Scores on the validation part, one for each seed."""
        return loop.evaluate(self._net, LOSS, state, *self._feed.validation, self._feed.normalise)
