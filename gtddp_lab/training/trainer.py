"""A method, ready to train one network on one data set."""

from functools import cached_property, lru_cache, partial
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_jax.network import StageFacts, stage_facts
from gtddp_lab.data import DataSplit, Feed, data_position, epoch_order, steps_per_epoch
from gtddp_lab.training import loop, totals
from gtddp_lab.training.methods import TrainingMethod
from gtddp_lab.training.placement import ONE_DEVICE, Placement
from gtddp_lab.training.settings import MOST_STEPS, TrainSettings
from gtddp_lab.training.state import BatchStats, Params, RunState, step_key, without_batch_stats
from gtddp_lab.training.steps import advance_state
from gtddp_lab.training.watch import WeightWatch, watched_pictures, watched_rows


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of all runs, per sample.

    Args:
        outputs: Scores [batch, classes], or [batch, T, classes].
        labels: Integers [batch], or [batch, T].

    Returns:
        The loss of each sample [batch], with several labels the mean over them.

    Raises:
        ValueError: If the network has another number of outputs than the data set has labels.
    """
    if outputs.shape[:-1] != labels.shape:
        raise ValueError(
            f"The network has outputs of shape {outputs.shape} for labels of shape "
            f"{labels.shape}. Outputs must have the shape of the labels and one axis more. Choose "
            "char-gpt for data sets of text, and another network for images."
        )
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return losses if losses.ndim == 1 else losses.mean(axis=1)


SCORED_TRAINING_IMAGES = 10_000
"""Training images scored after an epoch, evenly spaced; all of them in smaller data sets."""


class InitialVariables(TypedDict):
    """Initial parameters and batch statistics of a network."""

    params: Params
    batch_stats: BatchStats


def initial_variables(net: gt.Network, feed: Feed, seed: int) -> InitialVariables:
    """Returns the initial variables of a run, the same for every method.

    Args:
        net: The network.
        feed: The data, for the shape of an image.
        seed: The seed of the run; it determines the parameters.
    """
    return _initialize_network(net, jax.random.key(seed), feed.train.images[:1])


@partial(jax.jit, static_argnums=0)  # compiled once for all seeds and methods
def _initialize_network(net: gt.Network, key: jax.Array, images: jax.Array) -> InitialVariables:
    variables: Any = net.init_variables(key, images)
    return variables


class Trainer:
    """One method, compiled for one network, data set and batch size.

    Attributes:
        method: The method.
        batch_size: Samples in a batch.
        steps_per_epoch: Full batches in an epoch.
    """

    def __init__(
        self,
        method: TrainingMethod,
        net: gt.Network,
        feed: Feed,
        settings: TrainSettings,
        batch_size: int,
        epochs: int = 1,
        dispatch: str | None = None,
        placement: Placement = ONE_DEVICE,
    ) -> None:
        """Builds the optimizer; the first step compiles.

        Args:
            method: The method.
            net: The network to train.
            feed: The data, on the device.
            settings: Settings of the method's optimizer.
            batch_size: Samples in a batch.
            epochs: Epochs of the whole run, for the learning rate schedule.
            dispatch: Key in ``loop.DISPATCHES``; by default that of the platform.
            placement: Where the state and the indices of the batches live.

        Raises:
            ValueError: If a batch is larger than the training part, or cannot be split evenly over
                the devices, or the run takes too many steps.
        """
        self.method: TrainingMethod = method
        self.batch_size: int = batch_size
        self.steps_per_epoch: int = steps_per_epoch(feed.samples, batch_size)
        if epochs * self.steps_per_epoch > MOST_STEPS:
            raise ValueError(
                f"a run takes at most {MOST_STEPS} steps, which are counted in 32 bits; {epochs} "
                f"epochs of {self.steps_per_epoch} batches are more. Give fewer epochs or larger "
                "batches."
            )
        placement.check_batch(batch_size)
        self._net, self._feed, self._placement, self._dispatch = net, feed, placement, dispatch
        variables = initial_variables(net, feed, seed=0)
        rate = settings.scheduled_rate(epochs * self.steps_per_epoch)
        self._optimizer = method.build(net, cross_entropy, settings, rate, variables["batch_stats"])
        self._step = method.make_step(net, cross_entropy, self._optimizer, settings.weight_decay)
        self._advance_state = advance_state(self._step)
        # The state holds totals of the report, whose shapes only a traced step reveals. Tracing
        # that step takes a state, too: one without a report.
        self._report_shapes: dict[str, Any] = {}
        self._report_shapes = self._trace_report(variables)
        self._param_shapes = jax.eval_shape(lambda: variables["params"])
        self._epoch_rows = lru_cache(maxsize=1)(self._draw_epoch_rows)
        self._weight_watch = lru_cache(maxsize=1)(self._make_weight_watch)

    @cached_property
    def stages(self) -> tuple[StageFacts, ...]:
        """The stages of the game, at the shape of the batch."""
        images = self._feed.train.images
        batch = jax.ShapeDtypeStruct((self.batch_size, *images.shape[1:]), images.dtype)
        return stage_facts(self._net, self._param_shapes, batch)

    @property
    def compile_seconds(self) -> float:
        """Wall time of the compilations of steps so far."""
        # Looks into __dict__, because reading a cached property would build its steps.
        built = [self.__dict__.get(name) for name in ("_one_seed_steps", "_many_seed_steps")]
        return sum(steps.compile_seconds for steps in built if steps is not None)

    def start(self, seeds: tuple[int, ...]) -> RunState:
        """The state before the first step; with several seeds, stacked along a leading axis."""
        states = [
            self._initial_state(initial_variables(self._net, self._feed, seed), seed)
            for seed in seeds
        ]
        if len(seeds) == 1:
            return self._placement.place_state(states[0])
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        return self._placement.place_state(stacked)

    def _initial_state(self, variables: InitialVariables, seed: int) -> RunState:
        state = RunState(
            params=variables["params"],
            opt_state=without_batch_stats(self._optimizer.init(variables["params"])),
            batch_stats=variables["batch_stats"],
            step=jnp.zeros((), jnp.int32),
            seed=jnp.asarray(seed, jnp.uint32),
            totals=totals.empty_totals(self._report_shapes),
        )
        # Copies every leaf: the steps donate their state, and aliased buffers cannot be donated.
        return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.result_type(leaf)), state)

    def _trace_report(self, variables: InitialVariables) -> dict[str, Any]:
        """Shapes and dtypes of the diagnostics that a step reports."""
        rows = np.zeros(self.batch_size, np.int32)

        def first_step(part: DataSplit) -> Any:
            state = self._initial_state(variables, seed=0)
            return self._step(state, self._feed.batch(part, rows, step=0), step_key(state))

        return jax.eval_shape(first_step, self._feed.train).report

    def _row_step(self, state: RunState, part: DataSplit, row: Any) -> RunState:
        batch = self._feed.batch(part, row, state.step, seed=state.seed)
        return self._advance_state(state, batch)

    @cached_property
    def _one_seed_steps(self) -> loop.CompiledSteps:
        return loop.CompiledSteps(self._row_step, self._dispatch, self._placement)

    @cached_property
    def _many_seed_steps(self) -> loop.CompiledSteps:
        # The training part is shared by all seeds (None); state and rows are not.
        seeds_step = jax.vmap(self._row_step, in_axes=(0, None, 0))
        return loop.CompiledSteps(seeds_step, self._dispatch, self._placement)

    def _steps_for(self, state: RunState) -> loop.CompiledSteps:
        return self._many_seed_steps if state.step.ndim else self._one_seed_steps

    def _draw_epoch_rows(self, seeds: tuple[int, ...], epoch: int) -> np.ndarray:
        orders = [epoch_order(seed, epoch, self._feed.samples, self.batch_size) for seed in seeds]
        # Steps come first, since a scan runs over the leading axis.
        return orders[0] if len(seeds) == 1 else np.stack(orders, axis=1)

    def rows(self, seeds: tuple[int, ...], step: int, count: int) -> np.ndarray:
        """Returns the batches of some steps of one epoch.

        Args:
            seeds: Seeds of the runs.
            step: Steps taken before.
            count: Number of steps; fewer at the end of the epoch.

        Returns:
            Indices into the training part, int32; [count, batch], for several seeds
            [count, seeds, batch].
        """
        epoch, first = data_position(step, self._feed.samples, self.batch_size)
        return self._epoch_rows(seeds, epoch)[first : first + count]

    def compile(self, state: RunState, rows: np.ndarray) -> None:
        """Compiles what `train` with the same arguments will need."""
        self._steps_for(state).compile(state, self._feed.train, rows)

    def train(self, state: RunState, rows: np.ndarray) -> RunState:
        """Takes one step for each row of ``rows``; the state passed in is donated."""
        return self._steps_for(state)(state, self._feed.train, rows)

    def new_epoch(self, state: RunState) -> RunState:
        """Returns the state with empty totals."""
        empty, seeds = totals.empty_totals(self._report_shapes), state.step.shape
        # Copies, because broadcast views would alias and could not be donated.
        for_all_seeds = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, seeds + leaf.shape).copy(), empty
        )
        return state._replace(totals=self._placement.place_state(for_all_seeds))

    def figures(self, state: RunState) -> tuple[totals.EpochFigures, ...]:
        """Means over the running epoch's steps so far, one entry per seed."""
        on_host = jax.device_get(state.totals)
        if not state.step.ndim:
            return (totals.read_totals(on_host),)
        return tuple(
            totals.read_totals(jax.tree.map(lambda leaf, index=index: leaf[index], on_host))
            for index in range(state.step.shape[0])
        )

    def _make_weight_watch(self, images: int) -> WeightWatch:
        return WeightWatch(self._step, self._feed, self._placement, self.watched_rows(images))

    @cached_property
    def _scored_part(self) -> DataSplit:
        train, samples = self._feed.train, self._feed.samples
        if samples <= SCORED_TRAINING_IMAGES:
            return train
        # The same images after every epoch, so that the loss curve has no sampling noise.
        indices = np.linspace(0, samples - 1, SCORED_TRAINING_IMAGES).astype(np.int32)
        return DataSplit(train.images[indices], train.labels[indices])

    def score_train(self, state: RunState) -> list[loop.EvaluationScore]:
        """Scores on ``SCORED_TRAINING_IMAGES`` of the training part, one per seed."""
        return self._score_part(state, self._scored_part)

    def score_validation(self, state: RunState) -> list[loop.EvaluationScore]:
        """Scores on the validation part, one per seed."""
        return self._score_part(state, self._feed.validation)

    def _score_part(self, state: RunState, part: DataSplit) -> list[loop.EvaluationScore]:
        images, labels = part
        return loop.score_network(
            self._net, cross_entropy, state, images, labels, self._feed.normalise
        )

    def watched_rows(self, images: int) -> np.ndarray:
        """Indices [batches, batch] of about ``images`` watched images, see `watch.watched_rows`."""
        return watched_rows(self._feed.samples, self.batch_size, images)

    def digest_weights(self, state: RunState, images: int) -> list[dict[str, Any]]:
        """Digests of the weights of about ``images`` watched images, one per seed.

        See `watch.weight_digest`.
        """
        return self._weight_watch(images)(state)

    def watched_pictures(self, images: int) -> dict[str, Any]:
        """The watched images themselves, see `watch.watched_pictures`."""
        return watched_pictures(self._feed, self.watched_rows(images))
