"""A hint for training loops whose steps are not compiled.

One eager step is how people try things, so the hint comes with the second of one run: a step whose
state another eager step has returned. It is given once per process.
"""

import warnings
import weakref
from typing import Any

import jax
from jax.core import Tracer

from gtddp_jax.core.game_warning import GameWarning
from gtddp_jax.core.joint_report import is_game_report

EAGER_STEPS = (
    "{name}: tx.update runs outside of jax.jit, operation by operation, which takes hundreds of "
    "times as long as a compiled step. Compile the whole step: step = gtddp_jax.make_update(tx); "
    "params, state = step(params, state, (inputs, targets)). Or put @jax.jit above the function "
    "that calls tx.update and optax.apply_updates."
)


class _EagerHistory:
    """What is remembered of eager steps in this process."""

    def __init__(self) -> None:
        self.warned = False
        # By id, because arrays have no hash; weak, so that no state is kept alive.
        self.losses: weakref.WeakValueDictionary[int, jax.Array] = weakref.WeakValueDictionary()


_HISTORY = _EagerHistory()


def note_step(name: str, before: object, after: object) -> None:
    """Warns if a step and the one before it were eager, once per process.

    Args:
        name: the game, for the message.
        before: the state that the step received.
        after: the state that the step returns.
    """
    loss, last_loss = _reported_loss(after), _reported_loss(before)
    # Under `jit`, `vmap` and the like the result of a step is traced, whatever its arguments are.
    if _HISTORY.warned or loss is None or isinstance(loss, Tracer):
        return
    # Who disables compilation looks for something.
    if getattr(jax.config, "jax_disable_jit", False):
        return
    if last_loss is not None and _HISTORY.losses.get(id(last_loss)) is last_loss:
        _HISTORY.warned = True
        warnings.warn(EAGER_STEPS.format(name=name), GameWarning, stacklevel=3)
    _HISTORY.losses[id(loss)] = loss


def _reported_loss(state: object) -> jax.Array | None:
    """The array of a state by which it is known again; None if it has no report."""
    report: Any = getattr(state, "report", None)
    return report.loss if is_game_report(report) else None
