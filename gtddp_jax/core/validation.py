"""Checks of user arguments, with errors that show the correct call.

`check_...` raises unless something holds; `refuse_...` raises where an unsupported use is detected.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.types import Batch, Tree

MULTI_STEPS_MESSAGE = (
    "{name} inside optax.MultiSteps would see the last mini-batch only, because MultiSteps "
    "accumulates `updates` and our gradient comes from `batch`. Accumulate inside instead: "
    "{inside}."
)


def refuse_multi_steps(name: str, inside: str) -> None:
    """Raises if `optax.MultiSteps` wraps the transformation `name`: it would drop mini-batches.

    Args:
        name: the transformation, for the message.
        inside: the supported way to accumulate, for the message.
    """
    if _is_called_from(optax.MultiSteps.update):
        raise ValueError(MULTI_STEPS_MESSAGE.format(name=name, inside=inside))


def _is_called_from(function: Callable[..., Any]) -> bool:
    """Whether `function` is on the call stack.

    An optax wrapper passes the inner transformation nothing that identifies the wrapper: not in the
    state, the arguments or their types. MultiSteps would make our steps silently wrong, so the call
    stack is searched instead.
    """
    # A frame knows its code object, but not its function.
    code = function.__code__
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


def refuse_masked_params(name: str, params: Tree) -> None:
    """Raises if `optax.masked` or `optax.multi_transform` hides some of the parameters."""
    # MaskedNode is a node without children, so it would not be among the leaves by default.
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in leaves):
        raise ValueError(
            f"{name} needs all parameters to run the network, but some are hidden by optax.masked "
            "or optax.multi_transform. To freeze parameters, chain a mask after it: optax.chain("
            f"{name}(...), optax.masked(optax.set_to_zero(), mask))."
        )


def check_float_params(name: str, params: Tree) -> None:
    """Raises unless all parameters are real floating-point numbers, which gradients require."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        # Complex numbers are inexact, but the losses are not holomorphic.
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"{name}: parameters must be real floating-point numbers, got "
                f"{jnp.result_type(leaf)} at {jax.tree_util.keystr(path)}. Cast it, or keep what "
                "is not trained elsewhere, for example beside the inputs."
            )


def refuse_empty_batch(name: str, samples: int) -> None:
    """Raises if a batch has no samples."""
    if samples == 0:
        raise ValueError(f"{name}: the batch is empty; a step needs at least one sample.")


def check_required_arguments(name: str, **given: object) -> None:
    """Raises if one of the keyword arguments of `update` is missing (None)."""
    missing = [argument for argument, value in given.items() if value is None]
    if missing:
        raise ValueError(
            f"{name}: update is missing {' and '.join(missing)}. Call "
            "tx.update(running_cost_gradient, state, params, batch=(inputs, targets))."
        )


def check_positive(name: str, **values: object) -> None:
    """Raises unless all values are numbers > 0; arrays may be traced and are not checked."""
    for field, value in values.items():
        if isinstance(value, jax.Array):
            continue
        # `not value > 0` also refuses NaN; a bool is an int in Python.
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise ValueError(f"{name}({field}={value!r}): give a number > 0.")


def check_choice(name: str, field: str, value: object, supported: tuple[str, ...]) -> None:
    """Raises unless the option `field` of `name` has one of the supported values."""
    if value not in supported:
        raise ValueError(f"{name}: invalid {field}: {value!r}. Supported: {supported}.")


def as_transformation(name: str, base: object) -> optax.GradientTransformationExtraArgs:
    """`base` as an optax transformation that ignores extra arguments it does not know.

    Args:
        name: whose base it is, for the message.
        base: an `optax.GradientTransformation` or `optax.MultiSteps`.
    """
    # MultiSteps is not itself a transformation, although it has init and update.
    if isinstance(base, optax.MultiSteps):
        base = base.gradient_transformation()
    if not isinstance(base, optax.GradientTransformation):
        raise ValueError(
            f"{name}: the base must be an optax.GradientTransformation, got {base!r}; for example "
            "optax.adam(1e-3)."
        )
    return optax.with_extra_args_support(base)


def split_batch(name: str, batch: object) -> tuple[Batch, Batch]:
    """The pair `(inputs, targets)`; raises if `batch` is not a pair."""
    # An array of two rows would unpack as well, so the type is checked.
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(
            f"{name}: `batch` must be a pair (inputs, targets), got {type(batch).__name__}. Call "
            "tx.update(running_cost_gradient, state, params, batch=(inputs, targets))."
        )
    return batch[0], batch[1]
