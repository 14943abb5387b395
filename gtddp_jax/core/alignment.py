"""Whether a loss compares each sample's outputs with that sample's targets."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

Loss = Callable[[Any, Any], jax.Array]


def check_alignment(loss: Loss, outputs: Any, targets: Any) -> None:
    """Raises if a loss would broadcast the targets against the outputs.

    Outputs [B, 1] and targets [B] make `outputs - targets` a table of all pairs of samples, whose
    sum over the last axis still is one number a sample, and a wrong one. So the loss is traced with
    one more target than there are outputs: where it pairs them up, the shapes no longer fit.

    Args:
        loss: `loss(outputs, targets) -> [B]`.
        outputs: an array [B, ...] or a tree of such.
        targets: a tree; leaves that do not have B rows are taken as they are.

    Raises:
        ValueError: the loss reads the targets and takes any number of them.
    """
    leaves, structure = jax.tree.flatten(targets)
    batch = jax.tree.leaves(outputs)[0].shape[0]
    places = [i for i, leaf in enumerate(leaves) if jnp.shape(leaf)[:1] == (batch,)]
    rows = max(batch, 2)  # a single row fits to everything

    def resized(leaf: Any, count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *jnp.shape(leaf)[1:]), jnp.result_type(leaf))

    def paired(outputs: Any, chosen: list[Any]) -> jax.Array:
        full = list(leaves)
        for i, leaf in zip(places, chosen, strict=True):
            full[i] = leaf
        return loss(outputs, jax.tree.unflatten(structure, full))

    fewer = jax.tree.map(lambda leaf: resized(leaf, rows), outputs)
    try:
        traced = jax.make_jaxpr(paired)(fewer, [resized(leaves[i], rows + 1) for i in places])
    except Exception:  # whatever the loss raises when the shapes do not fit
        return
    _, used = dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    if any(used[len(jax.tree.leaves(outputs)) :]):
        shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(outputs)]
        given = [tuple(jnp.shape(leaves[i])) for i in places]
        raise ValueError(
            "loss(outputs, targets) does not pair outputs with targets: it takes "
            f"{rows + 1} targets for {rows} outputs. Outputs of shape "
            f"{', '.join(map(str, shapes))} and targets of shape {', '.join(map(str, given))} are "
            "broadcast against each other, or the targets are reduced over the batch. Give them "
            "one shape, for example outputs[:, 0]."
        )
