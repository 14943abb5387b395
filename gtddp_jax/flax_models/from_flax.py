"""`from_flax`: an existing Flax model as a network for the sequential game."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import flax.linen as nn
import jax

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Batch, InputsLike
from gtddp_jax.flax_models.linen import LinenModel
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.tracing.grouping import UNSUPPORTED_MODES
from gtddp_jax.tracing.pure_model import CallOptions, PureModel
from gtddp_jax.tracing.traced_model import count_samples, is_random_key
from gtddp_jax.tracing.traced_network import TracedNetwork

# Recursive, which the run-time check of jaxtyping does not support.
if TYPE_CHECKING:
    ExampleInputs: TypeAlias = (
        Batch | InputsLike | tuple["ExampleInputs", ...] | Mapping[str, "ExampleInputs"]
    )
else:
    ExampleInputs = Batch


def from_flax(
    model: Any,
    example_input: ExampleInputs,
    *,
    method: str | None = None,
    apply_kwargs: Mapping[str, Any] | None = None,
    eval_kwargs: Mapping[str, Any] | None = None,
    rng_collections: Sequence[str] = ("dropout",),
    key_arguments: Sequence[str] = (),
    axis_name: AxisName = None,
    unsupported: str = "generic",
) -> TracedNetwork:
    """Makes an existing Flax model a network for `gtddp` and its aliases.

    The model is traced, and its players (the owners of parameters), the stages in which they act
    and the states that are alive in between are read from the trace, without knowledge of any
    architecture. Parameters stay in Flax's own tree.

    Args:
        model: a `flax.linen` or `flax.nnx` module.
        example_input: a batch of inputs, arrays or shapes [B, ...]: an array, a tuple of positional
            arguments or a dict of keyword arguments. Only shapes and dtypes matter; later batches
            may have other sizes. `batch=(inputs, targets)` of `update` takes inputs of this form.
        method: name of the method to call; default `__call__`.
        apply_kwargs: further static arguments of a training pass, such as `{"train": True}`.
        eval_kwargs: the same for `apply(train=False)`; default `apply_kwargs`.
        rng_collections: random streams that a linen model, or the argument `rngs` of an nnx model,
            may draw from.
        key_arguments: names of arguments that take a random key, such as a VAE's `z_rng`. Every
            step passes a new one, `rngs={"z_rng": key}`. The argument `rngs` of an nnx model takes
            `nnx.Rngs` with the streams of `rng_collections`.
        axis_name: the mapped axis of `pmap` or `shard_map` over which the model itself
            communicates, as `nn.BatchNorm(axis_name="batch")` does; pass the optimizer the same.
        unsupported: how to treat parameters that cannot act on their own (layers inside a scan,
            the gates of a recurrent cell, parameters without influence on the outputs): "generic"
            merges those that act together into one player, "error" raises an error.

    Returns:
        A network. `tx.init` and `tx.update` take `variables["params"]` of a linen model, or
        `nnx.state(model, nnx.Param)`.

    Raises:
        NetworkError: the model is not supported; the message says why and what to do.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.LayerNorm(), nn.Dense(3)])
        >>> x, y = jnp.ones((4, 5)), jnp.array([0, 1, 2, 0])
        >>> params = model.init(jax.random.key(0), x)["params"]
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.adam(gt.from_flax(model, x), loss, 1e-3)
        >>> state = tx.init(params)
        >>> updates, state = tx.update(None, state, params, batch=(x, y))
        >>> params = optax.apply_updates(params, updates)
    """
    if unsupported not in UNSUPPORTED_MODES:
        raise NetworkError(
            f"from_flax: invalid unsupported: {unsupported!r}. Supported: {UNSUPPORTED_MODES}."
        )
    example: Any = example_input
    count_samples(example)  # raises if the inputs have no common sample axis
    # Without arguments of its own, evaluation calls the model as training does.
    train = dict(apply_kwargs or {})
    _refuse_fixed_keys(train)
    options = CallOptions(
        method=method,
        apply_kwargs=train,
        eval_kwargs=train if eval_kwargs is None else dict(eval_kwargs),
        rng_collections=tuple(rng_collections),
        key_arguments=tuple(key_arguments),
        axes=SampleReductions(0, axis_name).axes,
    )
    return TracedNetwork(_as_pure_model(model, example, options), example, unsupported)


def _refuse_fixed_keys(apply_kwargs: Mapping[str, Any]) -> None:
    """Raises if an argument of all training passes is a random key."""
    for name, value in apply_kwargs.items():
        if any(is_random_key(leaf) for leaf in jax.tree.leaves(value)):
            stream = "dropout" if name == "rngs" else name
            raise NetworkError(
                f"from_flax: apply_kwargs[{name!r}] is a random key, which would be the same in "
                "every step, so that the noise would never change. Name the argument, "
                f"gt.from_flax(model, x, key_arguments=({name!r},)), and pass a new key in every "
                f"step: tx.update(None, state, params, batch=batch, rngs={{{stream!r}: key}})."
            )


def _as_pure_model(module: Any, example: Batch, options: CallOptions) -> PureModel:
    """Chooses the front end of a module.

    Raises:
        NetworkError: it is neither a linen nor an nnx module.
    """
    if isinstance(module, nn.Module):
        return LinenModel(module, example, options)
    # nnx is slow to import: only when the model is not a linen module.
    from flax import nnx

    if isinstance(module, nnx.Module):
        from gtddp_jax.flax_models.nnx import NnxModel

        return NnxModel(module, options)
    raise NetworkError(
        f"from_flax: model must be an instance of flax.linen.Module or flax.nnx.Module, got "
        f"{module!r}. For a plain function of parameters and inputs, use gtddp_jax.implicit."
    )
