"""Checks of what users pass, with errors that show the correct call."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax

MULTI_STEPS = (
    "{name} inside optax.MultiSteps would see the last mini-batch only, because MultiSteps "
    "accumulates `updates` and our gradient comes from `batch`. Accumulate inside instead: "
    "{inside}."
)


def refuse_multi_steps(name: str, inside: str) -> None:
    """Raises if the caller is `optax.MultiSteps`, which would silently drop mini-batches."""
    frame = sys._getframe(1)
    code = optax.MultiSteps.update.__code__
    while frame is not None:
        if frame.f_code is code:
            raise ValueError(MULTI_STEPS.format(name=name, inside=inside))
        frame = frame.f_back


def refuse_masked(name: str, params: Any) -> None:
    """Raises if parameters are hidden by `optax.masked` or `multi_transform`."""
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in leaves):
        raise ValueError(
            f"{name} needs all parameters to run the network, but some are hidden by optax.masked "
            "or optax.multi_transform. To freeze parameters, chain a mask after it: optax.chain("
            f"{name}(...), optax.masked(optax.set_to_zero(), mask))."
        )


def refuse_other_numbers(name: str, params: Any) -> None:
    """Raises unless all parameters are real floating-point numbers: only these can be trained."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"{name}: parameters must be real floating-point numbers, got "
                f"{jnp.result_type(leaf)} at {jax.tree_util.keystr(path)}. Cast it, or keep what "
                "is not trained elsewhere, for example beside the inputs."
            )


def refuse_empty(name: str, samples: int) -> None:
    """Raises if a batch has no samples."""
    if samples == 0:
        raise ValueError(f"{name}: the batch is empty; a step needs at least one sample.")


def transformation(name: str, base: Any) -> optax.GradientTransformationExtraArgs:
    """`base` as an optax transformation that swallows extra arguments; MultiSteps included."""
    if isinstance(base, optax.MultiSteps):
        base = base.gradient_transformation()
    if not isinstance(base, optax.GradientTransformation):
        raise ValueError(
            f"{name}: the base must be an optax.GradientTransformation, got {base!r}; for example "
            "optax.adam(1e-3)."
        )
    return optax.with_extra_args_support(base)


def split_batch(name: str, batch: Any) -> tuple[Any, Any]:
    """`(inputs, targets)`, or an error that shows the call."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(
            f"{name}: `batch` must be a pair (inputs, targets), got {type(batch).__name__}. Call "
            "tx.update(running_cost_gradient, state, params, batch=(inputs, targets))."
        )
    return batch[0], batch[1]


def require(name: str, **given: Any) -> None:
    """Raises if one of the named arguments of `update` is missing (None)."""
    missing = [key for key, value in given.items() if value is None]
    if missing:
        raise ValueError(
            f"{name}: update is missing {' and '.join(missing)}. Call "
            "tx.update(running_cost_gradient, state, params, batch=(inputs, targets))."
        )
