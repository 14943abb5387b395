"""Steps of nnx modules by a function of losses, in place.

The function receives a fresh copy of the module each time a game calls it, so that the module's own
variables, such as statistics and counts of random streams, change once a step. So do those of nnx
objects among the other arguments.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import jax
import optax
from flax import nnx

from gtddp_jax.losses.losses import Losses, LossesFn, call_losses
from gtddp_jax.losses.training_step import StepOutput, value_and_update

ModuleStepFn: TypeAlias = Callable[..., StepOutput]
"""`(*args, **kwargs) -> output`; it updates its module and optimizer in place."""


def update_module(
    model: nnx.Module,
    optimizer: "nnx.Optimizer[Any]",
    losses: LossesFn,
    *args: object,
    **kwargs: object,
) -> StepOutput:
    """Update a module and its `nnx.Optimizer` in place by a function of losses.

    It stands where `nnx.value_and_grad` and `optimizer.update(model, grads)` stood, under
    `nnx.jit`. The variables that the optimizer does not train, such as batch statistics and counts
    of random streams, are updated as by one call of the module. Attributes that are no variables
    keep their values: call `model.train()` before the step or in `losses`.

    Args:
        model: the module.
        optimizer: `nnx.Optimizer(model, tx, wrt=nnx.Param)` with any `tx` of
            `gtddp_jax.value_and_update`.
        losses: `losses(model, *args, **kwargs) -> gtddp_jax.Losses`, where `model` is a copy of the
            module that may be mutated.
        args: passed on to `losses`. An nnx object among them, such as `nnx.Rngs`, may be mutated
            there as well: it is passed on as a copy and updated once.
        kwargs: passed on to `losses`, as `args` are.

    Returns:
        The loss, aux and report of the step.

    Raises:
        ValueError: `losses` adds a variable to the module or removes one.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from flax import nnx
        >>> import gtddp_jax as gt
        >>> cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        >>> def losses(model, x, y):
        ...     return gt.Losses(model(x), lambda logits: cross_entropy(logits, y))
        >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> optimizer = nnx.Optimizer(model, gt.implicit(optax.adam(1e-3)), wrt=nnx.Param)
        >>> @nnx.jit
        ... def train_step(model, optimizer, x, y):
        ...     return gt.nnx.update(model, optimizer, losses, x, y)
        >>> output = train_step(model, optimizer, jnp.ones((4, 3)), jnp.array([0, 1, 1, 0]))
        >>> int(optimizer.step[...]), output.loss.shape
        (1, ())
    """
    leaves, structure = jax.tree.flatten((args, kwargs), is_leaf=_is_object)
    objects = [leaf for leaf in leaves if _is_object(leaf)]
    # Split together, because the model may hold an object that is an argument as well.
    graph, trained, other = nnx.split((model, objects), _of_model(optimizer.wrt), ...)
    # Arrays instead of variables: a merged module must not share its variables with this one.
    params, rest = nnx.as_pure(trained).get(0, nnx.State({})), nnx.as_pure(other)

    def pure_losses(params: Any) -> Losses:
        copies = nnx.merge(graph, {0: params}, rest)
        remaining = iter(copies[1])
        own_args, own_kwargs = jax.tree.unflatten(
            structure, [next(remaining) if _is_object(leaf) else leaf for leaf in leaves]
        )
        result = call_losses(losses, copies[0], *own_args, **own_kwargs)
        changed = nnx.as_pure(nnx.state(copies, nnx.Not(_of_model(optimizer.wrt))))
        _check_same_variables(rest, changed)
        return dataclasses.replace(result, aux=(result.aux, changed))

    output, updates, opt_state = value_and_update(optimizer.tx, pure_losses)(
        params, nnx.as_pure(optimizer.opt_state)
    )
    aux, changed = cast(Any, output.aux)
    nnx.update(model, optax.apply_updates(params, updates))
    nnx.update((model, objects), changed)
    nnx.update(optimizer.opt_state, nnx.state(opt_state))
    optimizer.step[...] += 1
    return output._replace(aux=aux)


def make_module_step(
    model: nnx.Module, tx: "optax.GradientTransformation | nnx.Optimizer[Any]", losses: LossesFn
) -> ModuleStepFn:
    """One jitted training step that updates a module in place.

    Args:
        model: the module; all its `nnx.Param` are trained.
        tx: a game, an `optax.chain` with a game, or any optax optimizer; or an `nnx.Optimizer` of
            the module, which is updated in place as well, to be saved, or to train other variables.
        losses: `losses(model, *args, **kwargs) -> gtddp_jax.Losses`, where `model` is a copy of the
            module that may be mutated.

    Returns:
        A jitted function `(*args, **kwargs) -> output`, where `output` has the loss, aux and the
        report of the game.

    Raises:
        ValueError: in a step, if `losses` adds a variable to the module or removes one.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from flax import nnx
        >>> import gtddp_jax as gt
        >>> cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        >>> def losses(model, x, y):
        ...     return gt.Losses(model(x), lambda logits: cross_entropy(logits, y))
        >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        >>> step = gt.nnx.make_step(model, gt.implicit(optax.adam(1e-3)), losses)
        >>> output = step(jnp.ones((4, 3)), jnp.array([0, 1, 1, 0]))
        >>> output.loss.shape, output.report.skipped.item()
        ((), False)
    """
    optimizer = tx if isinstance(tx, nnx.Optimizer) else nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def jitted(model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> StepOutput:
        return update_module(model, optimizer, losses, *args, **kwargs)

    def step(*args: Any, **kwargs: Any) -> StepOutput:
        return jitted(model, optimizer, *args, **kwargs)

    return step


def _is_object(leaf: object) -> bool:
    """Whether an argument is an nnx object that `losses` may change, such as `nnx.Rngs`."""
    return isinstance(leaf, (nnx.Pytree, nnx.Variable))


def _of_model(wrt: Any) -> Callable[[Any, Any], bool]:
    """The filter `wrt` for the first of several objects."""
    matches = nnx.filterlib.to_predicate(wrt)
    return lambda path, value: path[0] == 0 and matches(path[1:], value)


def _check_same_variables(before: Any, after: Any) -> None:
    """Raises unless module and arguments have the same untrained variables as before a call."""
    paths = [{path for path, _ in nnx.to_flat_state(state)} for state in (before, after)]
    # The first part of a path is 0 for the model, and 1 for the arguments.
    differing = sorted("/".join(map(str, path[1:])) for path in paths[0] ^ paths[1])
    if differing:
        raise ValueError(
            "gtddp_jax.nnx: losses(model, ...) adds variables to the model or removes them: "
            f"{', '.join(differing)}. Return what the model recorded as aux: "
            "gtddp_jax.Losses(..., aux=nnx.pop(model, nnx.Intermediate))."
        )
