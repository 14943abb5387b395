"""Outputs that are broadcast against targets are refused; every other meeting of them passes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from gtddp_jax.core.loss_pairing import check_loss_pairing
from tests.robustness.losses.problems import BATCH, CROSS_ENTROPY

COLUMN, ROWS, NUMBERS = jnp.ones((BATCH, 1)), jnp.ones((BATCH, 3)), jnp.ones(BATCH)


@pytest.fixture(autouse=True)
def users_rank_promotion() -> Any:
    """The default of JAX; the tests beside these forbid the broadcasting that is looked for."""
    with jax.numpy_rank_promotion("allow"):
        yield


def square(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.square(outputs - targets).sum(-1)


Case = tuple[Callable[[Any, Any], jax.Array], Any, Any]
BROADCAST: dict[str, Case] = {
    "difference": (square, COLUMN, NUMBERS),
    "targets are the column": (square, NUMBERS, COLUMN),
    "a slice": (lambda o, y: square(o[:, :1], y), ROWS, NUMBERS),
    "compiled": (jax.jit(square), COLUMN, NUMBERS),
    "recomputed": (jax.checkpoint(square), COLUMN, NUMBERS),
    "binary cross entropy": (
        lambda o, y: optax.sigmoid_binary_cross_entropy(o, y).mean(-1),
        COLUMN,
        NUMBERS,
    ),
    "huber": (lambda o, y: optax.huber_loss(o, y).mean(-1), COLUMN, NUMBERS),
    "product": (lambda o, y: -(jnp.log(o) * y).sum(-1), COLUMN, NUMBERS),
    "choice": (lambda o, y: jnp.where(y > 0, jnp.square(o), 0).sum(-1), COLUMN, NUMBERS),
    "trees": (
        lambda o, y: square(o["value"], y["value"]),
        {"value": COLUMN, "count": jnp.ones((1000,), int)},
        {"value": NUMBERS},
    ),
    "a single sample": (square, COLUMN[:1], NUMBERS[:1]),
}
PASSES: dict[str, Case] = {
    "one shape": (lambda o, y: jnp.square(o[:, 0] - y), COLUMN, NUMBERS),
    "keys": (lambda q, k: CROSS_ENTROPY(q @ k.T, jnp.arange(len(q))), ROWS, ROWS),
    "keys with their frequencies": (
        lambda q, k: CROSS_ENTROPY(q @ k[0].T - jnp.log(k[1]), jnp.arange(len(q))),
        ROWS,
        (ROWS, NUMBERS),
    ),
    "keys by einsum": (
        lambda q, k: CROSS_ENTROPY(jnp.einsum("id,jd->ij", q, k), jnp.arange(len(q))),
        ROWS,
        ROWS,
    ),
    "all pairs with all axes": (lambda o, y: square(o[:, None], y[None, :]), NUMBERS, NUMBERS),
    "all distances": (
        lambda o, y: jnp.square(o[:, None, :] - y[None, :, :]).sum((1, 2)),
        ROWS,
        ROWS,
    ),
    "all pairs by vmap": (
        lambda o, y: jax.vmap(lambda t: jnp.square(o - t), out_axes=1)(y).sum(-1),
        NUMBERS,
        NUMBERS,
    ),
    "reduced targets": (lambda o, y: jnp.square(o.sum(-1) - y.mean()), ROWS, NUMBERS),
    "class weights": (
        lambda o, y: CROSS_ENTROPY(o, y[0]) * y[1][y[0]],
        ROWS,
        (jnp.zeros(BATCH, int), jnp.ones(3)),
    ),
    "no targets": (lambda o, y: jnp.square(o).sum(-1), ROWS, None),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_broadcasting_is_refused(name: str) -> None:
    loss, outputs, targets = BROADCAST[name]
    with pytest.raises(ValueError, match="broadcasts outputs against targets") as error:
        check_loss_pairing(loss, outputs, targets)
    if name == "difference":
        assert error.match(r"accepts 7 targets for 6 outputs.*an array \(6, 7\).*\(6, 1\).*\(6,\)")
        assert error.match(r"outputs\[:, None\] - targets\[None, :\]")


@pytest.mark.parametrize("name", PASSES)
def test_other_meetings_pass(name: str) -> None:
    check_loss_pairing(*PASSES[name])
