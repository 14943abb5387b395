"""Losses whose program keeps samples apart, and losses whose program does not."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gtddp_jax.tracing.separate_losses import losses_are_separate

LABELS = np.array([0, 1, 2, 0, 1, 2])
TOKENS = np.zeros((4, 5), int)
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
Loss = Callable[[Any], jax.Array]

SEPARATE: dict[str, tuple[Loss, tuple[int, ...]]] = {
    "labels": (lambda o: CROSS_ENTROPY(o, LABELS), (6, 3)),
    "one-hot labels": (
        lambda o: optax.softmax_cross_entropy(o, jax.nn.one_hot(LABELS, 3)),
        (6, 3),
    ),
    "squares": (lambda o: optax.l2_loss(o).sum(-1), (6, 3)),
    "tokens": (lambda o: CROSS_ENTROPY(o, TOKENS).mean(-1), (4, 5, 7)),
    "vmap": (jax.vmap(lambda o: jnp.square(o).sum()), (6, 3)),
    "mask": (lambda o: jnp.where(np.arange(6) > 2, CROSS_ENTROPY(o, LABELS), 0.0), (6, 3)),
    "alignments": (
        lambda o: optax.ctc_loss(o, jnp.zeros((4, 5)), np.zeros((4, 2), int), np.zeros((4, 2))),
        (4, 5, 7),
    ),
}
MIXED: dict[str, Loss] = {
    "contrastive": lambda o: CROSS_ENTROPY(o @ o.T, LABELS),
    "mean": lambda o: jnp.square(o - o.mean(0)).sum(-1),
    "common maximum": lambda o: (o - o.max()).sum(-1),
    "reversed": lambda o: jnp.square(o[::-1]).sum(-1),
    "shifted": lambda o: (o * jnp.roll(o, 1, 0)).sum(-1),
    "other rows": lambda o: o[LABELS].sum(-1),
    "running sum": lambda o: jnp.cumsum(o, 0).sum(-1),
    "sorted": lambda o: jnp.sort(o, 0).sum(-1),
    "sum": lambda o: o.sum() * jnp.ones(6),
    "product": lambda o: (jnp.ones((6, 6)) @ o).sum(-1),
    "scan": lambda o: jax.lax.scan(lambda c, x: (c + x.sum(), c), jnp.zeros((), o.dtype), o)[1],
    "transposed": lambda o: o.T.sum(-1),
    "symmetric": lambda o: (o + o.T).sum(-1),
    "merged": lambda o: jnp.square(o.reshape(3, 12).T[:6]).sum(-1),
}


@pytest.fixture(autouse=True)
def any_ranks() -> Iterator[None]:
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", SEPARATE)
def test_separate_losses_are_proved_separate(name: str) -> None:
    loss, shape = SEPARATE[name]
    assert losses_are_separate(loss, jnp.ones(shape))


@pytest.mark.parametrize("name", MIXED)
def test_nothing_is_proved_where_samples_mix(name: str) -> None:
    assert not losses_are_separate(MIXED[name], jnp.ones((6, 6)))


def test_trees_of_outputs() -> None:
    outputs = {"logits": jnp.ones((6, 3)), "scale": jnp.ones(6), "unused": jnp.ones((2, 6))}

    def loss(outputs: Any) -> jax.Array:
        return CROSS_ENTROPY(outputs["logits"], LABELS) * outputs["scale"]

    assert losses_are_separate(loss, outputs)

    def mixed(outputs: Any) -> jax.Array:
        return loss(outputs) * outputs["unused"].sum(0)

    assert not losses_are_separate(mixed, outputs)
    assert not losses_are_separate(mixed, {"logits": jnp.ones(())})


def test_a_loss_over_devices_is_not_proved() -> None:
    proved = []

    def mixed(outputs: jax.Array) -> jax.Array:
        def loss(outputs: Any) -> jax.Array:
            return (outputs - jax.lax.pmean(outputs, "i")).sum(-1)

        proved.append(losses_are_separate(loss, outputs))
        return outputs

    jax.vmap(mixed, axis_name="i")(jnp.ones((2, 6, 3)))
    assert proved == [False]
