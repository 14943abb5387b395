"""Dispatches many steps, and scores a network.

How steps are dispatched depends on the platform only. On accelerators, a chunk of steps is one
``jax.lax.scan``. On the CPU, Python loops over one compiled step: inside a scan, XLA's CPU
convolutions were measured to be 4 to 19 times slower (dense layers twice as fast), which would also
distort every comparison of times.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab.core.look_up import look_up
from gtddp_lab.data import DataSplit
from gtddp_lab.training.placement import ONE_DEVICE, Placement
from gtddp_lab.training.state import BatchStats, Params, RunState
from gtddp_lab.training.steps import SampleLoss

EVALUATION_CHUNK = 2048
"""Samples evaluated at a time; bounds the memory on large data sets."""

RowStep = Callable[[RunState, DataSplit, Any], RunState]
"""Maps (state, training part, indices [batch] of the batch's samples) to the next state."""


def _scan_steps(step: RowStep) -> RowStep:
    def scanned(state: RunState, part: DataSplit, rows: Any) -> RunState:
        return jax.lax.scan(lambda state, row: (step(state, part, row), None), state, rows)[0]

    return scanned


def _single_step(step: RowStep) -> RowStep:
    return step


class Dispatch(NamedTuple):
    """How the steps of a chunk reach the device.

    Attributes:
        make_program: Makes the function that is compiled: one step, or a chunk of steps.
        split_rows: Splits the rows of a chunk into the arguments of successive calls.
    """

    make_program: Callable[[RowStep], RowStep]
    split_rows: Callable[[np.ndarray], Sequence[np.ndarray]]


DISPATCHES: dict[str, Dispatch] = {
    "loop": Dispatch(_single_step, list),
    "scan": Dispatch(_scan_steps, lambda rows: [rows]),
}
"""Ways to dispatch steps, by name."""


def dispatch_for(platform: str) -> str:
    """The dispatch of a platform: ``"loop"`` on ``"cpu"``, ``"scan"`` elsewhere."""
    return "loop" if platform == "cpu" else "scan"


class CompiledSteps:
    """A step, compiled once and taken many times; the state passed in is donated.

    Attributes:
        compile_seconds: Wall time of all compilations so far.
    """

    def __init__(
        self,
        step: RowStep,
        dispatch: str | None = None,
        placement: Placement = ONE_DEVICE,
    ) -> None:
        """Prepares the step; the first call compiles it.

        Args:
            step: The step.
            dispatch: Key in ``DISPATCHES``; by default that of the platform.
            placement: Where state and indices live.

        Raises:
            ValueError: If ``dispatch`` is unknown.
        """
        name = dispatch_for(jax.default_backend()) if dispatch is None else dispatch
        self._dispatch = look_up(DISPATCHES, name, "dispatch")
        self._placement = placement
        # Donation lets XLA update parameters and optimizer state in place.
        self._program = jax.jit(
            self._dispatch.make_program(step),
            donate_argnums=0,
            out_shardings=placement.state_sharding,
        )
        self._compiled: dict[tuple[int, ...], Callable[..., RunState]] = {}
        self.compile_seconds: float = 0.0

    def compile(self, state: RunState, part: DataSplit, rows: np.ndarray) -> None:
        """Compiles what `__call__` with the same arguments will need."""
        # All calls of a chunk have the same shape; the last chunk of an epoch may be shorter.
        call_rows = self._dispatch.split_rows(rows)[0]
        if call_rows.shape not in self._compiled:
            start = time.perf_counter()
            self._compiled[call_rows.shape] = self._program.lower(
                state, part, self._placement.place_rows(call_rows)
            ).compile()
            self.compile_seconds += time.perf_counter() - start

    def __call__(self, state: RunState, part: DataSplit, rows: np.ndarray) -> RunState:
        """Takes one step for each row and waits until the device has finished.

        Args:
            state: The state before the first step; must not be used again.
            part: The training part from which the step takes its batch.
            rows: Indices of the samples of every batch, [steps, ..., batch], at least one step.
        """
        self.compile(state, part, rows)
        for call_rows in self._dispatch.split_rows(rows):
            program = self._compiled[call_rows.shape]
            state = program(state, part, self._placement.place_rows(call_rows))
            if self._placement.waits_for_each_step:
                jax.block_until_ready(state)
        return jax.block_until_ready(state)


class EvaluationScore(NamedTuple):
    """Mean loss, and the fraction of samples whose largest output is that of their class."""

    loss: float
    accuracy: float


PrepareImages = Callable[[jax.Array], jax.Array]
"""Applied to images [batch, ...] before the network."""


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _score_chunk(
    net: gt.Network,
    loss: SampleLoss,
    prepare: PrepareImages,
    several_seeds: bool,
    variables: tuple[Params, BatchStats],
    images: jax.Array,
    labels: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Sums of losses and of correct classifications, each of shape [seeds]."""

    def score_seed(variables: tuple[Params, BatchStats]) -> tuple[jax.Array, jax.Array]:
        params, batch_stats = variables
        outputs: Any = net.apply(params, prepare(images), batch_stats=batch_stats)
        # Sums, not means: the last chunk is smaller than the others.
        return loss(outputs, labels).sum(), jnp.sum(outputs.argmax(axis=-1) == labels)

    # The data is shared: only parameters and statistics have a seed axis.
    if several_seeds:
        return jax.vmap(score_seed)(variables)
    return jax.tree.map(jnp.atleast_1d, score_seed(variables))


def unchanged_images(images: jax.Array) -> jax.Array:
    """Returns the images unchanged."""
    return images


def score_network(
    net: gt.Network,
    loss: SampleLoss,
    state: RunState,
    images: jax.Array,
    labels: jax.Array,
    prepare: PrepareImages = unchanged_images,
) -> list[EvaluationScore]:
    """Scores a network on one part of a data set, in evaluation mode.

    Args:
        net: The network.
        loss: Loss per sample.
        state: The state of one run, or of several seeds at once.
        images: Shape [N, height, width, channels].
        labels: Shape [N], or [N, T] with T labels for each sample.
        prepare: Applied to the images first.

    Returns:
        One score per seed.
    """
    samples, several_seeds = len(labels), state.step.ndim > 0
    variables = (state.params, state.batch_stats)
    loss_total, correct_total = np.zeros(()), np.zeros(())
    for start in range(0, samples, EVALUATION_CHUNK):
        chunk = slice(start, start + EVALUATION_CHUNK)
        sums = _score_chunk(
            net, loss, prepare, several_seeds, variables, images[chunk], labels[chunk]
        )
        losses, correct = jax.device_get(sums)
        # Chunks are added in float64: the sum over a data set would lose digits in float32.
        loss_total = loss_total + losses.astype(np.float64)
        correct_total = correct_total + correct
    return [
        EvaluationScore(float(loss_sum) / samples, int(correct) / labels.size)
        for loss_sum, correct in zip(loss_total, correct_total, strict=True)
    ]
