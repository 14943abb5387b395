"""Checks that a loss compares each sample's outputs with the targets of the same sample."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from gtddp_jax.core.types import Batch, Loss, Outputs


def check_loss_pairing(loss: Loss, outputs: Outputs, targets: Batch) -> None:
    """Raises if a loss would broadcast the targets against the outputs.

    With outputs [B, 1] and targets [B], `outputs - targets` is a table of all pairs of samples. Its
    sum over the last axis is one number per sample, but a wrong one. So the loss is traced with one
    target more than there are outputs: if it pairs them up, these shapes are an error.

    Args:
        loss: `loss(outputs, targets) -> [B]`.
        outputs: an array [B, ...] or a tree of arrays [B, ...].
        targets: a tree; leaves without B rows are passed as they are.

    Raises:
        ValueError: the loss reads the targets and accepts any number of them.
    """
    target_leaves, structure = jax.tree.flatten(targets)
    batch = jax.tree.leaves(outputs)[0].shape[0]
    per_sample = [i for i, leaf in enumerate(target_leaves) if jnp.shape(leaf)[:1] == (batch,)]
    output_rows = max(batch, 2)  # a single row can be broadcast against any number

    def with_rows(leaf: Any, rows: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *jnp.shape(leaf)[1:]), jnp.result_type(leaf))

    # Only the leaves with a row per sample are resized; class weights, say, stay as they are.
    def loss_of(outputs: Outputs, resized_targets: list[Any]) -> jax.Array:
        leaves = list(target_leaves)
        for position, leaf in zip(per_sample, resized_targets, strict=True):
            leaves[position] = leaf
        return loss(outputs, jax.tree.unflatten(structure, leaves))

    resized_outputs = jax.tree.map(lambda leaf: with_rows(leaf, output_rows), outputs)
    resized_targets = [with_rows(target_leaves[i], output_rows + 1) for i in per_sample]
    try:
        traced = jax.make_jaxpr(loss_of)(resized_outputs, resized_targets)
    except Exception:  # shapes that do not fit raise whatever the loss raises
        return
    # A loss that ignores the targets (a penalty on the outputs) pairs nothing and is fine.
    _, used = dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    # The arguments are flat: the leaves of the outputs, then the resized targets.
    if any(used[len(jax.tree.leaves(outputs)) :]):
        output_shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(outputs)]
        target_shapes = [tuple(jnp.shape(target_leaves[i])) for i in per_sample]
        raise ValueError(
            "loss(outputs, targets) does not pair outputs with targets: it accepts "
            f"{output_rows + 1} targets for {output_rows} outputs. Outputs of shape "
            f"{', '.join(map(str, output_shapes))} and targets of shape "
            f"{', '.join(map(str, target_shapes))} are broadcast against each other, or the "
            "targets are reduced over the batch. Give them one shape, for example outputs[:, 0]."
        )
