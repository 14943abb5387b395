"""`make_step` and `value_and_update`: one step of a game or of any optax optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.joint_report import GameReport, is_game_report
from gtddp_jax.core.report import LossAndAux
from gtddp_jax.core.types import CallerTree, Scalar, Tree
from gtddp_jax.losses.constant_leaves import split_constants
from gtddp_jax.losses.losses import Losses, LossesFn
from gtddp_jax.losses.value_and_grad import mean_loss, value_and_grad


class StepOutput(NamedTuple):
    """What a step returns beside the parameters and the optimizer's state.

    Attributes:
        loss: the mean loss of the batch before the step, plus the regularizer; [].
        aux: `Losses.aux`, of the type that it was given. After a step that was skipped because its
            loss or gradient was not finite, it holds what the model computed all the same: keep
            the old statistics with `jnp.where(output.report.skipped, old, new)` where that matters.
        report: the report of the game; None for an optimizer without one.
    """

    loss: Scalar
    aux: CallerTree
    report: GameReport | None


UpdateFn: TypeAlias = Callable[..., tuple[StepOutput, CallerTree, CallerTree]]
"""`(params, opt_state, *args, **kwargs) -> (output, updates, opt_state)`."""

StepFn: TypeAlias = Callable[..., tuple[CallerTree, CallerTree, StepOutput]]
"""`(params, opt_state, *args, **kwargs) -> (params, opt_state, output)`."""


def find_reports(opt_state: Tree) -> list[GameReport]:
    """The reports of all games in an optimizer's state."""
    leaves: list[Any] = jax.tree.leaves(opt_state, is_leaf=is_game_report)
    return [leaf for leaf in leaves if is_game_report(leaf)]


def value_and_update(
    tx: optax.GradientTransformation | optax.MultiSteps, losses: LossesFn
) -> UpdateFn:
    """The loss and the update of one step, for training loops of one's own.

    It does not matter whether `tx` is a game, an `optax.chain` with a game, or an optimizer without
    one, so that a game is switched on and off by changing `tx` alone.

    Args:
        tx: `gtddp_jax.implicit(base)`, `gtddp_jax.gtddp(net, None, curvature)`,
            `gtddp_jax.joint()` or any optax optimizer. One without a game receives the gradient of
            the mean loss, and `value`, `grad` and `value_fn`.
        losses: `losses(params, *args, **kwargs) -> Losses`.

    Returns:
        A function `(params, opt_state, *args, **kwargs) -> (output, updates, opt_state)` for use
        under `jax.jit`, where `output` has the loss, aux and the report, and `updates` go into
        `optax.apply_updates`. `params` may be a model with leaves that are no arrays, as those of
        Equinox under `equinox.filter_jit`: then `opt_state` is that of its floating-point arrays,
        `tx.init(equinox.filter(model, equinox.is_inexact_array))`, and `updates` go into
        `equinox.apply_updates`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> def losses(w, x, y):
        ...     return gt.Losses(outputs=x @ w, per_sample=lambda outputs: (outputs - y) ** 2)
        >>> tx = optax.chain(optax.add_decayed_weights(1e-4), gt.implicit(optax.sgd(0.1)))
        >>> w = jnp.zeros(3)
        >>> step = jax.jit(gt.value_and_update(tx, losses))
        >>> output, updates, opt_state = step(w, tx.init(w), jnp.ones((4, 3)), jnp.ones(4))
        >>> w = optax.apply_updates(w, updates)
        >>> float(output.loss)
        1.0
    """
    # MultiSteps is not itself a transformation, although it has init and update.
    is_accumulation = isinstance(tx, optax.MultiSteps)
    transformation = tx.gradient_transformation() if is_accumulation else tx
    full: Any = optax.with_extra_args_support(transformation)

    def compute(params: Any, opt_state: Any, *args: Any, **kwargs: Any) -> Any:
        params, put_constants_back = split_constants(params)

        def losses_of(params: Any) -> Losses:
            return losses(put_constants_back(params), *args, **kwargs)

        if not find_reports(opt_state):
            (loss, aux), gradient = value_and_grad(losses_of)(params)
            updates, opt_state = full.update(
                gradient,
                opt_state,
                params,
                value=loss,
                grad=gradient,
                value_fn=lambda params: mean_loss(losses_of)(params)[0],
            )
            return StepOutput(loss, aux, None), updates, opt_state

        results: list[LossAndAux] = []
        updates, opt_state = full.update(
            # Members of a chain before the game expect an array per parameter, not None.
            jax.tree.map(jnp.zeros_like, params),
            opt_state,
            params,
            losses=losses_of,
            observe_step=results.append,
        )
        loss, aux = results[-1]
        return StepOutput(loss, aux, find_reports(opt_state)[-1]), updates, opt_state

    return compute


def make_step(
    tx: optax.GradientTransformation | optax.MultiSteps, losses: LossesFn, *, donate: bool = True
) -> StepFn:
    """One jitted training step of a game or of any optax optimizer.

    Args:
        tx: as in `value_and_update`.
        losses: `losses(params, *args, **kwargs) -> Losses`.
        donate: whether the step reuses the memory of the parameters and the state that it receives,
            which must then not be used again.

    Returns:
        A jitted function `(params, opt_state, *args, **kwargs) -> (params, opt_state, output)`,
        where `output` has the loss, aux and the report of the game.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        >>> def losses(params, batch):
        ...     logits = jnp.tanh(batch["x"] @ params["w1"]) @ params["w2"]
        ...     per_sample = lambda logits: cross_entropy(logits, batch["y"])
        ...     return gt.Losses(logits, per_sample, aux={"logits": logits})
        >>> params = {"w1": jnp.ones((3, 8)), "w2": jnp.ones((8, 2))}
        >>> batch = {"x": jnp.ones((4, 3)), "y": jnp.array([0, 1, 1, 0])}
        >>> tx = gt.implicit(optax.adam(1e-3))
        >>> step = gt.make_step(tx, losses)
        >>> params, opt_state, output = step(params, tx.init(params), batch)
        >>> round(float(output.loss), 4), output.aux["logits"].shape
        (0.6931, (4, 2))
    """
    compute = value_and_update(tx, losses)

    def step(params: Any, opt_state: Any, *args: Any, **kwargs: Any) -> Any:
        output, updates, opt_state = compute(params, opt_state, *args, **kwargs)
        return optax.apply_updates(params, updates), opt_state, output

    return jax.jit(step, donate_argnums=(0, 1) if donate else ())
