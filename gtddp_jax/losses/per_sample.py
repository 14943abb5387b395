"""The losses of single samples: their shape, their mask, and their mean.

| losses of shape | a sample is                                                              |
|-----------------|--------------------------------------------------------------------------|
| [B]             | a row of the batch                                                       |
| [B, T]          | a token, where the game weights samples; else a row, its tokens averaged |
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from gtddp_jax.core.loss_pairing import check_captured_pairing
from gtddp_jax.core.outputs import is_differentiable_leaf
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Outputs, Scalar, Tree
from gtddp_jax.losses.losses import Losses

Values = Float[Array, "B"] | Float[Array, "B T"]
ShapedValue: TypeAlias = Any
"""Losses, or their shape and dtype."""


def check_values(losses: Losses, values: ShapedValue) -> None:
    """Raises unless `per_sample` returned one real number per sample or per token.

    Args:
        losses: the losses.
        values: what `per_sample` returned, or its shape and dtype.
    """
    if values.ndim not in (1, 2) or not jnp.issubdtype(values.dtype, jnp.floating):
        shapes = ", ".join(str(jnp.shape(leaf)) for leaf in jax.tree.leaves(losses.outputs))
        raise ValueError(
            f"gtddp_jax.Losses: per_sample returned {values.dtype}{list(values.shape)} for outputs "
            f"of shape {shapes}. It must return one real floating-point loss per sample, [B], or "
            "per token, [B, T], without a mean over the batch."
        )
    if losses.mask is not None and jnp.shape(losses.mask) != values.shape:
        raise ValueError(
            f"gtddp_jax.Losses: the mask has shape {jnp.shape(losses.mask)} and the losses have "
            f"shape {values.shape}. Give the mask one entry per loss."
        )


def check_rows(outputs: Outputs, values: ShapedValue) -> None:
    """Raises unless every differentiable output has the leading axes of the losses.

    Args:
        outputs: `Losses.outputs`.
        values: the losses, or their shape.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(outputs):
        shape = jnp.shape(leaf)
        if not is_differentiable_leaf(leaf) or shape[: values.ndim] == values.shape:
            continue
        at = jax.tree_util.keystr(path)
        raise ValueError(
            f"gtddp_jax.Losses: outputs{at} has shape {shape} and the losses have shape "
            f"{values.shape}. Every floating-point output must begin with the axes of the losses. "
            "With losses [B, T] a sample is a token and outputs are [B, T, ...]; to make whole "
            "rows the samples, let per_sample return their sums, [B]. A penalty for the whole "
            "batch belongs into regularizer, a number to record into aux."
        )


def sample_scale(mask: Any, samples: SampleReductions, dtype: Any) -> jax.Array:
    """The factors that turn the mean over all samples into the mean over those in the mask.

    Args:
        mask: of any shape.
        samples: reductions over the entries of the mask.
        dtype: the dtype of the losses; the result has it, or float32 for a shorter one.

    Returns:
        `mask * N / sum(mask)` in the shape of the mask; zeros without a sample in the mask.
    """
    # A mask of float32 must not round the factors of losses of float64.
    weights = jnp.asarray(mask).astype(jnp.promote_types(dtype, jnp.float32))
    total = samples.sum_over_devices(weights.sum())
    return weights * (samples.count / jnp.where(total > 0, total, 1.0))


def keep_masked_constant(outputs: Outputs, mask: Any) -> Outputs:
    """The outputs, of which those of samples outside of the mask are constants.

    The derivative of a masked loss may be infinite, and stays NaN when it is multiplied by zero.
    """
    if mask is None:
        return outputs

    def keep(leaf: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        inside = jnp.asarray(mask) != 0
        # Other shapes are reported once the losses are known.
        if not is_differentiable_leaf(leaf) or jnp.shape(leaf)[: inside.ndim] != inside.shape:
            return leaf
        axes = tuple(range(inside.ndim, jnp.ndim(leaf)))
        return jnp.where(jnp.expand_dims(inside, axes), leaf, jax.lax.stop_gradient(leaf))

    return jax.tree.map(keep, outputs)


def masked_values(losses: Losses, outputs: Outputs, axis_name: AxisName = None) -> Values:
    """The losses at outputs, checked, with the factors by which a mean takes the mask into account.

    Args:
        losses: the losses.
        outputs: like `Losses.outputs`.
        axis_name: the mapped axis over devices, or None.
    """
    values = jnp.asarray(losses.per_sample(keep_masked_constant(outputs, losses.mask)))
    check_values(losses, values)
    if losses.mask is None:
        return values
    factors = sample_scale(losses.mask, SampleReductions(values.size, axis_name), values.dtype)
    # 0 where the factor is 0, whatever the loss is there.
    return jnp.where(factors > 0, values, 0) * factors


def evaluate(losses: Losses) -> tuple[Scalar, Tree | None]:
    """The mean loss plus the regularizer, and aux; refuses what a game refuses."""
    values = masked_values(losses, losses.outputs)
    check_rows(losses.outputs, values)
    check_captured_pairing(losses.per_sample, losses.outputs)
    return values.mean() + losses.regularizer, losses.aux
