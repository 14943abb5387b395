"""Outputs of a model: the part that a loss is differentiated by, and constants beside it.

| leaf                                     | part           |
|------------------------------------------|----------------|
| floating-point or complex, [B, ...]      | differentiable |
| integer, boolean, random key; any shape  | constant       |
| None                                     | no leaf        |
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Outputs, PerSample, Tree


def is_differentiable_leaf(leaf: Any) -> bool:
    """Whether an output is a real or complex floating-point number or array of such."""
    # A random key has a dtype that NumPy does not know, so the dtype is asked for first.
    dtype = getattr(leaf, "dtype", None)
    return jnp.issubdtype(jnp.result_type(leaf) if dtype is None else dtype, jnp.inexact)


def split_outputs(outputs: Tree) -> tuple[Outputs, Tree]:
    """The differentiable part and the constants, with None in place of what the other one has."""
    differentiable = jax.tree.map(
        lambda leaf: leaf if is_differentiable_leaf(leaf) else None, outputs
    )
    constants = jax.tree.map(lambda leaf: None if is_differentiable_leaf(leaf) else leaf, outputs)
    return differentiable, constants


def split_forward(
    forward: Callable[[Tree], tuple[Tree, Tree | None]],
) -> Callable[[Tree], tuple[Outputs, tuple[Tree, Tree | None]]]:
    """A model as JAX differentiates it with `has_aux=True`.

    Args:
        forward: `forward(params) -> (outputs, aux)`.

    Returns:
        `params -> (differentiable part, (constants, aux))`.
    """

    def differentiable_forward(params: Tree) -> tuple[Outputs, tuple[Tree, Tree | None]]:
        outputs, aux = forward(params)
        differentiable, constants = split_outputs(outputs)
        return differentiable, (constants, aux)

    return differentiable_forward


def join_outputs(differentiable: Outputs, constants: Tree) -> Tree:
    """The inverse of `split_outputs`."""
    return jax.tree.map(
        lambda leaf, constant: constant if leaf is None else leaf,
        differentiable,
        constants,
        is_leaf=lambda leaf: leaf is None,
    )


def check_per_sample_outputs(outputs: Outputs, losses: PerSample) -> None:
    """Raises unless the losses are [B] and every differentiable output is [B, ...].

    Args:
        outputs: the differentiable outputs.
        losses: what the loss returned for them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(outputs)
    if not leaves:
        raise ValueError(
            "the model returned no floating-point outputs, so there is nothing to differentiate "
            "the loss by. Return what the loss compares with the targets, an array [B, ...] or a "
            "tree of arrays [B, ...]."
        )
    shapes = [jnp.shape(leaf) for _, leaf in leaves]
    others = [
        f"outputs{jax.tree_util.keystr(path)} of shape {jnp.shape(leaf)}"
        for path, leaf in leaves
        if jnp.shape(leaf)[:1] != losses.shape
    ]
    # If some outputs have one row per loss, the others are at fault; else the loss is.
    if losses.ndim == 1 and len(others) < len(leaves):
        if others:
            raise ValueError(
                f"the model returned {' and '.join(others)}, which is not per sample: with losses "
                f"of shape {losses.shape}, every floating-point output must be [{len(losses)}, "
                "...]. What belongs to the whole batch is no output. Only record it: implicit("
                "..., has_aux=True), with apply_fn returning (outputs, aux). Add it to the "
                "objective (the balance loss of a mixture of experts): pass its gradient as that "
                "of a running cost, tx.update(jax.grad(balance_loss)(params, inputs), state, "
                "params, batch=batch)."
            )
        return
    expected = next((str(shape[:1]) for shape in shapes if shape), "[B]")
    raise ValueError(
        f"loss(outputs, targets) returned shape {losses.shape} for outputs of shape "
        f"{', '.join(map(str, shapes))}. It must return one loss per sample, shape {expected} "
        "(no mean over the batch)."
    )
