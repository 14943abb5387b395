"""Checks of user arguments, with errors that show the correct call.

`check_...` raises unless something holds; `refuse_...` raises where an unsupported use is detected.
"""

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.types import Batch, Loss, Outputs, PerSample, Tree


def refuse_masked_params(name: str, params: Tree, inside: str) -> None:
    """Raises if `optax.masked` or `optax.multi_transform` hides some of the parameters.

    Args:
        name: the game, for the message.
        params: what the game received.
        inside: how to build the game around a `{base}`, for the message.
    """
    # MaskedNode is a node without children, so it would not be among the leaves by default.
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in leaves):
        base = "optax.chain(base, optax.masked(optax.set_to_zero(), frozen))"
        raise ValueError(
            f"{name} needs all parameters to run the network, but some are hidden by optax.masked "
            f"or optax.multi_transform. Freeze parameters inside: "
            f"{inside.format(base=base)}, where frozen(params) is a tree of booleans."
        )


def check_float_params(name: str, params: Tree) -> None:
    """Raises unless all parameters are arrays of real floating-point numbers."""
    if isinstance(params, optax.LookaheadParams):
        raise ValueError(
            f"{name}: params are optax.LookaheadParams, a pair of fast and slow parameters, and a "
            "game trains one set. Pass params.fast, and average outside: "
            "optax.incremental_update(params, slow_params, 0.5)."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        at = jax.tree_util.keystr(path)
        if isinstance(leaf, (bool, int, float, complex)):
            raise ValueError(
                f"{name}: parameters must be arrays, got the Python number {leaf!r} at {at}. "
                "Convert them: params = jax.tree.map(jnp.asarray, params)."
            )
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise ValueError(
                f"{name}: parameters must be arrays, got {type(leaf).__name__} at {at}. Keep what "
                "is not trained out of params: close over it in apply_fn, or split the model, for "
                "example by equinox.partition(model, equinox.is_inexact_array)."
            )
        # Complex numbers are inexact, but the losses are not holomorphic.
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name}: parameters must be real floating-point numbers, got {leaf.dtype} at {at}."
                " Cast it, or keep what is not trained elsewhere, for example beside the inputs."
            )


def check_state(name: str, state: object, expected: type) -> None:
    """Raises unless `state` is of the type that the game's `init` returns."""
    if not isinstance(state, expected):
        raise ValueError(
            f"{name}: state must be the {expected.__name__} that tx.init(params) or the last "
            f"tx.update returned, got {type(state).__name__}. A state from a file: restore it into "
            "tx.init(params). In an optax.chain: pass the state of the whole chain to the chain."
        )


def check_state_structure(name: str, state: object, expected: object) -> None:
    """Raises unless a part of the state has the structure that its owner expects.

    Args:
        name: the game or the base, for the message.
        state: what the user passed.
        expected: a tree as the owner makes it.
    """
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise ValueError(
            f"{name}: the state comes from another optimizer. Pass what tx.init(params) or the "
            "last tx.update of this optimizer returned."
        )


def check_updates(name: str, updates: Tree | None, params: Tree) -> None:
    """Raises unless the gradient of the running cost is a tree like the parameters, or None."""
    if updates is None:
        return
    if jax.tree.structure(updates) != jax.tree.structure(params) or any(
        jnp.shape(update) != jnp.shape(param)
        for update, param in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True)
    ):
        raise ValueError(
            f"{name}: updates must be the gradient of a running cost, a tree like params, or None. "
            "Call tx.update(running_cost_gradient, state, params, batch=(inputs, targets))."
        )


def call_loss(
    name: str, loss: Loss, outputs: Outputs, targets: Batch, advice: str = ""
) -> PerSample:
    """The losses [B]; if the loss fails on a tuple of outputs, the error says so.

    Args:
        name: the game, for the message.
        loss: the loss.
        outputs: the outputs of the model.
        targets: the targets.
        advice: what else to try, for the message.
    """
    try:
        return loss(outputs, targets)
    except Exception as error:
        if not isinstance(outputs, tuple):
            raise
        raise ValueError(
            f"{name}: the loss failed on the outputs of the model, a tuple of {len(outputs)}. "
            f"{advice}A loss of one of them: lambda outputs, targets: loss(outputs[0], targets)."
        ) from error


def check_aux(initial: Tree, aux: Tree) -> None:
    """Raises unless what the model returned beside its outputs fits into the state.

    Args:
        initial: aux in the state.
        aux: what the model returned.
    """
    advice = (
        "Pass implicit(..., has_aux=True, aux=...) an initial value with the structure, shapes and "
        "kinds of numbers that apply_fn returns in every step; what depends on the size of the "
        "batch belongs into the outputs."
    )
    if jax.tree.structure(initial) != jax.tree.structure(aux):
        raise ValueError(
            "implicit: aux has another structure than what apply_fn returns beside the outputs: "
            f"{jax.tree.structure(initial)} and {jax.tree.structure(aux)}. {advice}"
        )
    leaves = jax.tree_util.tree_leaves_with_path(initial)
    for (path, old), new in zip(leaves, jax.tree.leaves(aux), strict=True):
        at = jax.tree_util.keystr(path)
        if not hasattr(new, "dtype") and not isinstance(new, (bool, int, float, complex)):
            raise ValueError(
                f"implicit: aux must be a tree of arrays, got {type(new).__name__} at {at!r}."
            )
        if jnp.shape(old) != jnp.shape(new) or not _is_same_kind(old, new):
            raise ValueError(
                f"implicit: aux at {at!r} is {jax.typeof(jnp.asarray(old))}, and apply_fn returns "
                f"{jax.typeof(jnp.asarray(new))}. {advice}"
            )


def _is_same_kind(old: object, new: object) -> bool:
    """Whether both are floating-point, both integer, or of one other dtype."""
    old_dtype, new_dtype = jnp.result_type(old), jnp.result_type(new)
    for kind in (jnp.floating, jnp.integer, jnp.complexfloating):
        if jnp.issubdtype(old_dtype, kind):
            return bool(jnp.issubdtype(new_dtype, kind))
    return old_dtype == new_dtype


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


def check_losses_argument(name: str, params: object, batch: object, losses: object) -> None:
    """Raises unless `update` received parameters and a function of losses, and no batch."""
    call = "tx.update(None, state, params, losses=lambda params: losses(params, batch))"
    if batch is not None:
        raise ValueError(
            f"{name}: update received a batch, but no model and loss were given to split it. Call "
            f"{call}, where losses returns gtddp_jax.Losses, or give {name} a model and a loss."
        )
    if params is None or losses is None:
        missing = " and ".join(
            argument
            for argument, value in (("params", params), ("losses", losses))
            if value is None
        )
        raise ValueError(f"{name}: update was called without {missing}. Call {call}.")
    if not callable(losses):
        raise ValueError(
            f"{name}: losses must be a function of the parameters, got {type(losses).__name__}. "
            f"Call {call}."
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


def split_batch(name: str, batch: object) -> tuple[Batch, Batch]:
    """The pair `(inputs, targets)`; raises if `batch` is not a pair."""
    # An array of two rows would unpack as well, so the type is checked.
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(
            f"{name}: `batch` must be a pair (inputs, targets), got {type(batch).__name__}. Call "
            "tx.update(running_cost_gradient, state, params, batch=(inputs, targets))."
        )
    return batch[0], batch[1]
