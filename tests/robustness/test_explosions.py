"""A thousand steps at a hundred times the largest rate at which a game trains."""

from typing import Any

import jax
import optax
import pytest

from tests.robustness.games import CROSS_ENTROPY, GAMES, LABELS, PARAMS, X, finite, squared
from tests.sequential import oracle

Tree = Any
STEPS = 1000
LOSSES = {"squared": squared, "cross entropy": CROSS_ENTROPY}


def train(tx: Any, batch: Any, steps: int) -> tuple[Tree, Any, jax.Array, jax.Array]:
    """Parameters and state after the steps; for each step, whether all is finite, and its loss."""

    def one(carry: Any, _: None) -> Any:
        params, state = carry
        updates, after = tx.update(None, state, params, batch=batch)
        params = optax.apply_updates(params, updates)
        leaves = jax.tree.leaves((params, updates))
        good = jax.numpy.stack([jax.numpy.isfinite(leaf).all() for leaf in leaves]).all()
        return (params, after), (good, after.report.loss)

    def run(params: Tree) -> Any:
        return jax.lax.scan(one, (params, tx.init(params)), None, length=steps)

    compiled = jax.jit(run, compiler_options=oracle.FAST)
    (params, state), (good, losses) = compiled(PARAMS)
    return params, state, good, losses


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", GAMES)
def test_parameters_stay_finite(name: str, loss: str) -> None:
    """Every step is finite or skipped, even if the loss diverges; the report counts the skipped."""
    rate, make = GAMES[name]
    targets = 10 * X if loss == "squared" else LABELS
    params, state, good, losses = train(make(LOSSES[loss], 100 * rate), (X, targets), STEPS)
    assert good.all() and finite(params)
    bad = int((~jax.numpy.isfinite(losses)).sum())
    assert state.report.skipped_steps >= bad
