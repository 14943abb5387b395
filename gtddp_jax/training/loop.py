"""Many steps, and scores: data stays on the device, the state is one tree.

How steps are dispatched is a matter of the platform, one rule for all networks. On accelerators a
chunk of steps is one ``jax.lax.scan``. On the CPU the loop is Python's, around one compiled step:
inside a scan XLA's convolutions on the CPU were measured 4 to 19 times slower (dense layers twice
as fast), which would also spoil every comparison of times.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_jax.training.placement import ONE_DEVICE, Placement
from gtddp_jax.training.state import TrainState
from gtddp_jax.training.steps import Loss
from gtddp_jax.training.tables import look_up

EVALUATION_CHUNK = 2048
"""Samples evaluated at a time: bounds memory on large data sets."""

RowStep = Callable[[TrainState, Any, Any], TrainState]
"""Maps (state, training part, indices [batch]) to the next state."""


def _scan(step: RowStep) -> Callable[[TrainState, Any, Any], TrainState]:
    def many(state: TrainState, part: Any, rows: Any) -> TrainState:
        return jax.lax.scan(lambda state, row: (step(state, part, row), None), state, rows)[0]

    return many


def _one(step: RowStep) -> Callable[[TrainState, Any, Any], TrainState]:
    return step


class Dispatch(NamedTuple):
    """How the steps of a chunk reach the device.

    Attributes:
        program: What is compiled: a step, or a chunk of them.
        feeds: What it is called with, one after the other: rows, or the chunk's rows at once.
    """

    program: Callable[[RowStep], Callable[[TrainState, Any, Any], TrainState]]
    feeds: Callable[[np.ndarray], Sequence[np.ndarray]]


DISPATCHES: dict[str, Dispatch] = {
    "loop": Dispatch(_one, lambda rows: rows),  # type: ignore[arg-type]  # iterates over steps
    "scan": Dispatch(_scan, lambda rows: [rows]),
}
"""Ways of dispatch by name."""


def dispatch_for(platform: str) -> str:
    """The way of dispatch on a platform: ``"loop"`` on ``"cpu"``, ``"scan"`` elsewhere."""
    return "loop" if platform == "cpu" else "scan"


class Steps:
    """A step, compiled and taken many times. The state that goes in is used up (donated).

    Attributes:
        compile_seconds: Wall time of all compilations so far.
    """

    def __init__(
        self,
        step: RowStep,
        dispatch: str | None = None,
        placement: Placement = ONE_DEVICE,
    ) -> None:
        """Compiles nothing yet.

        Args:
            step: The step.
            dispatch: Key in ``DISPATCHES``; by default that of the platform.
            placement: Where the state and the indices live.

        Raises:
            ValueError: If ``dispatch`` is unknown.
        """
        name = dispatch_for(jax.default_backend()) if dispatch is None else dispatch
        self._way = look_up(DISPATCHES, name, "dispatch")
        self._placement = placement
        self._program = jax.jit(
            self._way.program(step), donate_argnums=0, out_shardings=placement.whole
        )
        self._compiled: dict[tuple[int, ...], Callable[..., TrainState]] = {}
        self.compile_seconds: float = 0.0

    def compile(self, state: TrainState, part: Any, rows: np.ndarray) -> None:
        """Compiles what `__call__` with the same arguments will need."""
        feed = self._way.feeds(rows)[0]
        if feed.shape not in self._compiled:
            start = time.perf_counter()
            self._compiled[feed.shape] = self._program.lower(
                state, part, self._placement.put_rows(feed)
            ).compile()
            self.compile_seconds += time.perf_counter() - start

    def __call__(self, state: TrainState, part: Any, rows: np.ndarray) -> TrainState:
        """Takes one step for every row; returns when the device has finished.

        Args:
            state: The state before the first step; not to be used again.
            part: The training part, which the step picks its batch from.
            rows: Indices of every batch's samples, [steps, ..., batch], at least one step.
        """
        self.compile(state, part, rows)
        for feed in self._way.feeds(rows):
            state = self._compiled[feed.shape](state, part, self._placement.put_rows(feed))
            if self._placement.starves:
                jax.block_until_ready(state)
        return jax.block_until_ready(state)


class Score(NamedTuple):
    """Mean loss, and the fraction of samples whose largest output is their class."""

    loss: float
    accuracy: float


Prepare = Callable[[jax.Array], jax.Array]
"""What happens to images [batch, ...] before the network sees them."""


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _totals(
    net: gt.Network,
    loss: Loss,
    prepare: Prepare,
    many: bool,
    variables: tuple[Any, Any],
    images: jax.Array,
    labels: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def one(variables: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
        params, batch_stats = variables
        outputs = net.apply(params, prepare(images), batch_stats=batch_stats)
        return loss(outputs, labels).sum(), jnp.sum(outputs.argmax(axis=-1) == labels)

    return jax.vmap(one)(variables) if many else jax.tree.map(jnp.atleast_1d, one(variables))


def unprepared(images: jax.Array) -> jax.Array:
    """Images as they are."""
    return images


def evaluate(
    net: gt.Network,
    loss: Loss,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    prepare: Prepare = unprepared,
) -> list[Score]:
    """Scores a network on a whole part of a data set, in evaluation mode.

    Args:
        net: The network.
        loss: Loss of one sample.
        state: The state, of one run or of several seeds at once.
        images: Shape [N, height, width, channels].
        labels: Shape [N].
        prepare: What happens to images first.

    Returns:
        One score for each seed.
    """
    samples, many = len(labels), state.step.ndim > 0
    variables = (state.params, state.batch_stats)
    loss_total, right = np.zeros(()), np.zeros(())
    for start in range(0, samples, EVALUATION_CHUNK):
        chunk = slice(start, start + EVALUATION_CHUNK)
        part = _totals(net, loss, prepare, many, variables, images[chunk], labels[chunk])
        losses, hits = jax.device_get(part)
        loss_total, right = loss_total + losses.astype(np.float64), right + hits
    return [
        Score(float(value) / samples, int(count) / samples)
        for value, count in zip(loss_total, right, strict=True)
    ]
