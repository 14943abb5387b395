"""`implicit`: the whole network as one simultaneous game, as an optax transformation."""

import contextlib
from typing import Any, Protocol, runtime_checkable

import jax
import optax

from gtddp_jax.core import validation
from gtddp_jax.core.call_context import (
    refuse_later_members,
    refuse_lost_updates,
    refuse_wrappers,
)
from gtddp_jax.core.optax_base import as_optax_base
from gtddp_jax.core.report import SampleWeightObserver, StepObserver
from gtddp_jax.core.transformation import game_transformation
from gtddp_jax.core.types import AxisName, Batch, Loss, PerSample, Tree
from gtddp_jax.implicit.step import ImplicitGame, ImplicitState
from gtddp_jax.implicit.step_losses import LossesFunction, Model, ModelAndLoss, StepLosses
from gtddp_jax.implicit.weighting import WEIGHTINGS, SampleWeighting
from gtddp_jax.terminal import ExactLoss, TerminalModel
from gtddp_jax.terminal.scalar_equation import Bounds

INSIDE = "gtddp_jax.implicit({base}, apply_fn, loss)"
"""How to build the game around a base, for messages."""


def implicit(
    base: optax.GradientTransformation | optax.MultiSteps,
    model: Model | None = None,
    loss: Loss | None = None,
    *,
    weighting: str | SampleWeighting = "sketch",
    terminal: TerminalModel | None = None,
    bounds: Bounds = (0.0, 10.0),
    strength: float = 1.0,
    predict_momentum: bool = True,
    has_aux: bool = False,
    aux: Tree | None = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Weight the samples of each batch by the loss derivatives that the coming step will lead to.

    Each sample gets the weight `w_i = psi'_i(s_i)`: the derivative of its loss along its own output
    gradient, at the point where the base optimizer's step is predicted to put it. The base then
    receives the weighted gradient. For any base this approximates an implicit step on the true
    losses; docs/implicit.md explains the game and its options.

    The transformation computes the gradient of the loss itself: `update` takes the batch, or a
    function of losses (see `Losses`), and its first argument is the gradient of the running cost (a
    regularizer), zeros or None without one.

    Args:
        base: an optax transformation, chain or `optax.MultiSteps`. Its state advances once per
            step. It may need `value` (it gets the mean loss of the batch) or `grad`. Line searches
            and others that a game cannot predict are refused by name.
        model: `apply_fn(params, inputs) -> outputs`, an array [B, ...] or a tree of such, or a
            `gtddp_jax.Network` itself. None, with `loss`, if every update receives `losses=...`.
        loss: `loss(outputs, targets) -> [B]`, twice differentiable, one number per sample. A loss
            that is linear in the outputs leaves all weights at 1, of which a warning tells; one
            that couples samples is played with weights of 1 (`Report.samples_coupled`).
        weighting: how weights are computed: "sketch", "full", "exact", or an instance from
            `gtddp_jax.weighting`.
        terminal: the terminal model; default `gtddp_jax.terminal.ExactLoss(max_shift=None)`, the
            true loss. `ExactLoss(max_shift=r)` bounds the predicted shift of the outputs.
        bounds: smallest and largest weight, or None.
        strength: in [0, 1]; the weights are `1 + strength (w - 1)`. At 0 the result equals the
            base optimizer bit for bit.
        predict_momentum: whether predictions include the momentum step, which the base takes even
            for a zero gradient (momentum, decoupled weight decay).
        has_aux: whether `apply_fn` returns `(outputs, aux)`; the state holds the last `aux`.
        aux: with `has_aux`, an initial value with the structure of what `apply_fn` returns (for
            example the model's batch statistics). With `axis_name`, floating-point arrays are
            averaged over the devices, as statistics of parts of a batch are; others stay each
            device's own.
        axis_name: the mapped axis of `pmap` or `shard_map` over which samples are spread. Not
            needed under `jit` with a sharded batch.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose `update` needs `params`, and
        `batch=(inputs, targets)` or `losses=lambda params: ...`. Its state has a `report`. To
        inspect the weights of single samples pass `update` a function, `observe=seen.append`: it
        receives them, an array [1, B], while `update` is traced.

    Raises:
        ValueError: an argument has the wrong type or is out of range.

    Warns:
        GameWarning: the loss is linear in the outputs, or steps run outside of `jax.jit`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> apply_fn = lambda params, x: jnp.tanh(x @ params["w1"]) @ params["w2"]
        >>> params = {"w1": jnp.ones((3, 8)), "w2": jnp.ones((8, 2))}
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.implicit(optax.adam(3e-3), apply_fn, loss)
        >>> state = tx.init(params)
        >>> batch = (jnp.ones((4, 3)), jnp.array([0, 1, 1, 0]))
        >>> updates, state = tx.update(None, state, params, batch=batch)
        >>> params = optax.apply_updates(params, updates)
        >>> bool(state.report.skipped)
        False
    """
    game = ImplicitGame(
        base=as_optax_base("implicit", base),
        model=model,
        loss=loss,
        weighting=_resolve_weighting(weighting),
        # Without a limit on the shift: `bounds` limit the weights already.
        terminal=ExactLoss(max_shift=None) if terminal is None else terminal,
        bounds=bounds,
        strength=strength,
        predict_momentum=predict_momentum,
        has_aux=has_aux,
        axis_name=axis_name,
    )
    # The state needs the structure of aux before the model has run.
    if has_aux and aux is None:
        raise ValueError(
            "implicit(has_aux=True) needs aux=..., an initial value with the structure of what "
            "apply_fn returns beside the outputs (for example the model's batch statistics)."
        )

    # Typed loosely, because optax's own tree types also admit Python numbers, but not None.
    def init(params: Any) -> Any:
        _check_params(params, predicts=not game.is_base_alone)
        return game.init_state(params, aux)

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        batch: Any = None,
        losses: Any = None,
        observe: SampleWeightObserver | None = None,
        observe_step: StepObserver | None = None,
        **extra_args: Any,
    ) -> tuple[Any, Any]:
        step_losses = _step_losses(game, params, batch, losses)
        _check_params(params, predicts=not game.is_base_alone)
        validation.check_state("implicit", state, ImplicitState)
        validation.check_updates("implicit", updates, params)
        refuse_lost_updates("implicit", updates)
        if not game.is_base_alone:
            refuse_later_members("implicit", INSIDE)
        return game.take_step(
            updates, state, params, step_losses, extra_args, observe, observe_step
        )

    return game_transformation(
        "implicit", init, update, base, weighting=game.weighting, bounds=bounds, strength=strength
    )


@runtime_checkable
class WeightsFunction(Protocol):
    """The result of `implicit_weights`."""

    def __call__(
        self,
        state: ImplicitState,
        params: Tree,
        batch: tuple[Batch, Batch],
        updates: Tree | None = None,
        **extra_args: object,
    ) -> PerSample:
        """The weights [B] that `update` would use."""
        ...


def implicit_weights(
    base: optax.GradientTransformation | optax.MultiSteps,
    model: Model,
    loss: Loss,
    **options: Any,
) -> WeightsFunction:
    """Return a function that shows the weights `implicit` would give the samples of a batch.

    Args:
        base: as in `implicit`.
        model: as in `implicit`.
        loss: as in `implicit`.
        **options: as in `implicit`.

    Returns:
        `weights(state, params, batch, updates=None, **extra_args) -> [B]`: exactly the weights that
        `tx.update(updates, state, params, batch=batch, **extra_args)` would use, where `updates` is
        the gradient of the running cost. Nothing is updated.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> loss = lambda outputs, targets: optax.l2_loss(outputs, targets).sum(-1)
        >>> arguments = (optax.sgd(0.1), lambda params, x: x @ params, loss)
        >>> params = jnp.zeros((3, 1))
        >>> state = gt.implicit(*arguments, weighting="full").init(params)
        >>> look = gt.implicit_weights(*arguments, weighting="full")
        >>> look(state, params, (jnp.ones((4, 3)), jnp.ones((4, 1)))).shape
        (4,)
    """
    # Only a whole update needs to know the structure of aux.
    tx: Any = implicit(base, model, loss, **{**options, "aux": ()})

    def look_at_weights(
        state: ImplicitState,
        params: Tree,
        batch: tuple[Batch, Batch],
        updates: Tree | None = None,
        **extra_args: object,
    ) -> PerSample:
        seen: list[jax.Array] = []

        def keep_and_stop(weights: jax.Array) -> None:
            seen.append(weights[0])
            raise _WeightsKnown

        with contextlib.suppress(_WeightsKnown):
            tx.update(updates, state, params, batch=batch, observe=keep_and_stop, **extra_args)
        return seen[0]

    return look_at_weights


class _WeightsKnown(Exception):
    """Ends an update as soon as the weights are known."""


def _resolve_weighting(weighting: str | SampleWeighting) -> SampleWeighting:
    """The weighting of a name, or the instance itself."""
    instance: object = weighting
    if isinstance(weighting, str) and weighting in WEIGHTINGS:
        instance = WEIGHTINGS[weighting]()
    if not isinstance(instance, SampleWeighting):
        raise ValueError(
            f"Invalid weighting: {weighting!r}. Supported: {tuple(WEIGHTINGS)}, or an instance "
            "from gtddp_jax.weighting."
        )
    return instance


def _step_losses(game: ImplicitGame, params: Any, batch: Any, losses: Any) -> StepLosses:
    """Where the losses of a step come from; raises unless there is exactly one answer."""
    if game.model is None or game.loss is None:
        validation.check_losses_argument("implicit", params, batch, losses)
        return LossesFunction(losses)
    if losses is not None:
        raise ValueError(
            "implicit: a model and a loss were given, and update received losses. Give one of "
            "them: implicit(base) with tx.update(None, state, params, losses=...), or "
            "implicit(base, apply_fn, loss) with batch=(inputs, targets)."
        )
    validation.check_required_arguments("implicit", params=params, batch=batch)
    inputs, targets = validation.split_batch("implicit", batch)
    return ModelAndLoss(game.model, game.loss, inputs, targets, game.has_aux)


def _check_params(params: Tree, *, predicts: bool) -> None:
    refuse_wrappers("implicit", INSIDE, predicts=predicts)
    validation.refuse_masked_params("implicit", params, INSIDE)
    validation.check_float_params("implicit", params)
