"""`implicit`: the whole network as one simultaneous game, as an optax transformation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core import arguments
from gtddp_jax.core.report import Observe, empty_report
from gtddp_jax.core.types import AxisName, Batch, Loss, Outputs, PerSample, Tree
from gtddp_jax.network import Network
from gtddp_jax.simultaneous.game import Game, ImplicitState
from gtddp_jax.simultaneous.weights import WEIGHTS, WeightModel
from gtddp_jax.simultaneous.weights import tail as tail_model
from gtddp_jax.simultaneous.weights.base import whole_network
from gtddp_jax.terminal import Terminal, line
from gtddp_jax.terminal.solve import Bounds


def implicit(
    base: optax.GradientTransformation,
    apply_fn: Callable[..., Outputs],
    loss: Loss,
    *,
    weights: str | WeightModel = "tail",
    tail: str | Tree = None,
    terminal: Terminal | None = None,
    bounds: Bounds = (0.0, 10.0),
    strength: float = 1.0,
    drift: bool = True,
    every: int = 1,
    has_aux: bool = False,
    aux: Tree = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Reweighs the samples of each batch by what the step is about to do for them.

    All layers answer to one prediction of the step: `w_i = psi'_i(s_i)` is the slope of sample i's
    loss at the place where the base optimizer's step will put it, and the base gets the weighted
    gradient (DESIGN §4). It is an implicit step of the base on the true losses, whatever the base.

    The transformation computes the gradient itself: `update` takes the batch, and what arrives as
    `updates` is the gradient of the running cost (a regulariser), zeros or None if there is none.

    Args:
        base: any optax transformation or chain. Its state advances once a step.
        apply_fn: `apply_fn(params, inputs) -> outputs`, an array [B, ...] or a tree of such. A
            `gtddp_jax.Network`'s `apply` shares its backward pass between all sums where the weight
            model needs them (all but `tail`).
        loss: `loss(outputs, targets) -> [B]`, twice differentiable, one number a sample.
        weights: a weight model from `gtddp_jax.weights`, or its name: "tail", "product", "trial",
            "newton".
        tail: for `weights="tail"`, which players predict; see `gtddp_jax.weights.tail`.
        terminal: the terminal model; default `gtddp_jax.terminal.line(max_shift=None)`, the true
            loss. `line(max_shift=r)` bounds the predicted shift of the outputs.
        bounds: smallest and largest weight, or None.
        strength: in [0, 1]; the weights are `1 + strength (w - 1)`. At 0 the base itself, bit for
            bit.
        drift: whether the prediction includes what the base does without a new gradient (momentum).
        every: compute weights on every so many steps, use 1 on the others.
        has_aux: whether `apply_fn` returns `(outputs, aux)`; the last `aux` is in the state.
        aux: with `has_aux`, an initial value with the structure of what `apply_fn` returns (for
            example the model's batch statistics).
        axis_name: the mapped axis of `pmap` or `shard_map` over which samples are spread. Under
            `jit` with a sharded batch nothing is needed.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose `update` needs `params` and
        `batch=(inputs, targets)`. Its state has a `report` and a `prediction`. To look at the
        weights of single samples give `update` a function, `observe=seen.append`: it gets them, an
        array [1, B], while `update` is traced.

    Raises:
        ValueError: an argument of the wrong kind or range, named with what is supported.

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
    game = make_game(
        base,
        apply_fn,
        loss,
        weights=weights,
        tail=tail,
        terminal=terminal,
        bounds=bounds,
        strength=strength,
        drift=drift,
        every=every,
        has_aux=has_aux,
        axis_name=axis_name,
    )
    if has_aux and aux is None:
        raise ValueError(
            "implicit(has_aux=True) needs aux=..., an initial value with the structure of what "
            "apply_fn returns beside the outputs (for example the model's batch statistics)."
        )

    def init(params: Tree) -> ImplicitState:
        _check_params(params)
        return ImplicitState(
            base=game.base.init(params),
            weights=game.model.init(params),
            step=jnp.zeros((), jnp.int32),
            aux=aux,
            prediction=whole_network(),
            report=empty_report(1, ratios=0),
        )

    def update(
        updates: Tree,
        state: Any,
        params: Tree = None,
        *,
        batch: Any = None,
        observe: Observe | None = None,
        **extra_args: Any,
    ) -> tuple[Tree, ImplicitState]:
        _check_params(params)
        return game.update(updates, state, params, batch, extra_args, observe)

    return optax.GradientTransformationExtraArgs(init, update)


def implicit_weights(
    base: optax.GradientTransformation,
    apply_fn: Callable[..., Outputs],
    loss: Loss,
    **options: Any,
) -> Callable[[ImplicitState, Tree, tuple[Batch, Batch]], PerSample]:
    """The weights that `implicit` with the same arguments would give the samples of a batch.

    Args:
        base: as in `implicit`.
        apply_fn: as in `implicit`.
        loss: as in `implicit`.
        **options: as in `implicit`.

    Returns:
        `weights(state, params, batch) -> [B]`, for looking at; nothing is updated.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> loss = lambda outputs, targets: optax.l2_loss(outputs, targets).sum(-1)
        >>> arguments = (optax.sgd(0.1), lambda params, x: x @ params, loss)
        >>> params = jnp.zeros((3, 1))
        >>> state = gt.implicit(*arguments, weights="product").init(params)
        >>> look = gt.implicit_weights(*arguments, weights="product")
        >>> look(state, params, (jnp.ones((4, 3)), jnp.ones((4, 1)))).shape
        (4,)
    """
    options.pop("aux", None)  # it is in the state
    game = make_game(base, apply_fn, loss, **options)

    def weights(state: ImplicitState, params: Tree, batch: tuple[Batch, Batch]) -> PerSample:
        zeros = jax.tree.map(jnp.zeros_like, params)
        linearised = game.linearise(params, *batch)
        return game.weights(game.context(linearised, zeros, state, params, batch, {}), state)[0]

    return weights


def make_game(
    base: optax.GradientTransformation,
    apply_fn: Callable[..., Outputs],
    loss: Loss,
    *,
    weights: str | WeightModel = "tail",
    tail: str | Tree = None,
    terminal: Terminal | None = None,
    bounds: Bounds = (0.0, 10.0),
    strength: float = 1.0,
    drift: bool = True,
    every: int = 1,
    has_aux: bool = False,
    axis_name: AxisName = None,
) -> Game:
    """The checked options of `implicit`."""
    owner = getattr(apply_fn, "__self__", None)
    if isinstance(owner, Network) and owner.rng_collections:
        raise ValueError(
            "implicit: the network has nn.Dropout, and net.apply drops nothing unless it is told "
            "to. Pass the key with the inputs, batch=((x, key), targets), and as apply_fn a "
            'function that calls net.apply(params, x, train=True, rngs={"dropout": key}).'
        )
    return Game(
        base=arguments.transformation("implicit", base),
        apply_fn=apply_fn,
        loss=loss,
        model=_weight_model(weights, tail),
        terminal=line(max_shift=None) if terminal is None else terminal,
        bounds=bounds,
        strength=strength,
        drift=drift,
        every=every,
        has_aux=has_aux,
        axis_name=axis_name,
    )


def _weight_model(weights: Any, tail: Any) -> WeightModel:
    if isinstance(weights, str) and weights in WEIGHTS:
        if weights == "tail":
            return tail_model() if tail is None else tail_model(tail)
        model: Any = WEIGHTS[weights]()
    else:
        model = weights
    if not isinstance(model, WeightModel):
        raise ValueError(
            f"Invalid weights: {weights!r}. Supported: {tuple(WEIGHTS)}, or a model from "
            "gtddp_jax.weights."
        )
    if tail is not None:
        raise ValueError(
            f"tail={tail!r} goes with weights='tail', not with {weights!r}. With options, write "
            "weights=gtddp_jax.weights.tail(players, ...)."
        )
    return model


def _check_params(params: Tree) -> None:
    arguments.refuse_multi_steps(
        "implicit", "gtddp_jax.implicit(optax.MultiSteps(optax.adam(1e-3), 4), apply_fn, loss)"
    )
    arguments.refuse_masked("implicit", params)
    arguments.refuse_other_numbers("implicit", params)
