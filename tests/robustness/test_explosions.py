"""A thousand steps at a hundred times the largest rate at which a game trains."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.default_run import quick_cases
from tests.robustness.games import CROSS_ENTROPY, GAMES, LABELS, PARAMS, X, finite, squared

Tree = Any
STEPS = 1000
LOSSES = {"squared": squared, "cross entropy": CROSS_ENTROPY}


class Steps(NamedTuple):
    """What each step of a run did.

    Attributes:
        finite: whether all parameters and updates are finite.
        moved: whether a parameter changed.
        loss: the loss before the step.
        skipped: how many steps were skipped until here, this one included.
    """

    finite: jax.Array
    moved: jax.Array
    loss: jax.Array
    skipped: jax.Array


def train(tx: Any, batch: Any, steps: int) -> tuple[Tree, Steps]:
    """Parameters after the steps, and what each step did."""

    def one(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = tx.update(None, state, params, batch=batch)
        after = optax.apply_updates(params, updates)
        leaves = jax.tree.leaves((after, updates))
        good = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
        moved = jnp.stack([leaf.any() for leaf in jax.tree.leaves(updates)]).any()
        return (after, state), Steps(good, moved, state.report.loss, state.report.skipped_steps)

    def run(params: Tree) -> Any:
        return jax.lax.scan(one, (params, tx.init(params)), None, length=steps)

    (params, _), seen = jax.jit(run)(PARAMS)
    return params, seen


@pytest.mark.parametrize("loss", quick_cases(LOSSES))
@pytest.mark.parametrize("name", quick_cases(GAMES))
def test_parameters_stay_finite(name: str, loss: str) -> None:
    """Every step is finite or skipped, even if the loss diverges; the report counts the skipped.

    The first step starts from good parameters, so it must move them; SOAP's first only makes bases.
    """
    rate, make = GAMES[name]
    targets = 10 * X if loss == "squared" else LABELS
    params, seen = train(make(LOSSES[loss], 100 * rate), (X, targets), STEPS)
    assert seen.finite.all() and finite(params)
    skipped = jnp.diff(seen.skipped, prepend=0).astype(bool)
    first = int(name == "soap")
    assert seen.moved[first] and not skipped[: first + 1].any()
    assert not (skipped & seen.moved).any()
    # A step stands still without being skipped only where the gradient has vanished or overflowed.
    assert skipped[~jnp.isfinite(seen.loss)].all()
