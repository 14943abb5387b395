"""`gtddp`: the sequential game as an optax transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core import arguments
from gtddp_jax.core.report import Report, empty_report
from gtddp_jax.core.safety import all_finite, choose, zero_unless
from gtddp_jax.core.samples import Samples
from gtddp_jax.curvature import Curvature
from gtddp_jax.game.backward import StagePlan, places, plan
from gtddp_jax.game.rollout import ROLLOUTS, Rolled, open_loop, roll
from gtddp_jax.game.summary import first_order_changes, summarise
from gtddp_jax.network.protocol import Pass, Playable, by_stage
from gtddp_jax.terminal import Expansion, Terminal, line

Tree = Any
Loss = Callable[[Any, Any], jax.Array]


class GTDDPState(NamedTuple):
    """State of `gtddp`.

    Attributes:
        curvature: the base method's state, one a stage.
        report: figures of the last step.
        batch_stats: running statistics `{layer: {"mean": [features], "var": [features]}}` after the
            last step that was taken; empty without `nn.BatchNorm`.
    """

    curvature: tuple[Any, ...]
    report: Report
    batch_stats: dict[str, Any]


def gtddp(
    net: Playable,
    loss: Loss,
    curvature: Curvature,
    *,
    feedback: bool = True,
    terminal: Terminal | None = None,
    rollout: str = "linear",
    axis_name: Any = None,
    batch_stats: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Game-theoretic differential dynamic programming on an explicit residual network.

    Every layer weights each sample's gradient by how much the layers after it and before it are
    already doing for that sample in the same step (DESIGN §2, §3; paper Alg. 1, Eq. 6, 9, 14).

    The transformation computes the gradient itself: `update` takes the batch, and what arrives as
    `updates` is the gradient of the running cost (a regulariser), zeros or None if there is none.

    Args:
        net: the network.
        loss: `loss(outputs, targets) -> [B]`, twice differentiable, one number a sample.
        curvature: the base method, from `gtddp_jax.curvature`; the learning rate is in it.
        feedback: False for the base method itself, through the same code.
        terminal: the terminal model, from `gtddp_jax.terminal`; default `line(max_shift=1.0)`.
        rollout: "linear" (cheap) or "nonlinear" (the paper's; one more forward pass).
        axis_name: the mapped axis of `pmap` or `shard_map` over which samples are spread. Under
            `jit` with a sharded batch nothing is needed.
        batch_stats: for a network with `nn.BatchNorm`, the running statistics to begin with, from
            `net.init_variables`.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose `update` needs `params` and
        `batch=(inputs, targets)`, inputs [B, ...], and `rngs={"dropout": key}` for a network with
        `nn.Dropout`. Its state has a `report` and the running `batch_stats`.

    Raises:
        ValueError: an argument of the wrong kind, named with what is supported.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> net = gt.Network([nn.Dense(8), nn.tanh, gt.Residual([nn.Dense(8)]), nn.Dense(3)])
        >>> x, y = jnp.ones((4, 5)), jnp.array([0, 1, 2, 0])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.gtddp(net, loss, gt.curvature.adam(1e-3))
        >>> params = net.init(jax.random.key(0), x)
        >>> state = tx.init(params)
        >>> updates, state = tx.update(None, state, params, batch=(x, y))
        >>> params = optax.apply_updates(params, updates)
        >>> bool(state.report.skipped)
        False
    """
    terminal = line() if terminal is None else terminal
    _check(net, curvature, terminal, rollout)
    start = net.initial_batch_stats(batch_stats, axis_name)
    observer = ROLLOUTS[rollout]

    def init(params: Tree) -> GTDDPState:
        own = by_stage(net.stages, _split(net, params))
        states = tuple(
            curvature.init(players, place)
            for players, place in zip(own, places(net.stages), strict=True)
        )
        report = empty_report(len(net.stages), ratios=len(net.stages))
        return GTDDPState(states, report, jax.tree.map(jnp.copy, start))

    def update(
        updates: Tree,
        state: Any,
        params: Tree = None,
        *,
        batch: Any = None,
        rngs: Any = None,
        **extra_args: Any,
    ) -> tuple[Tree, GTDDPState]:
        del extra_args
        arguments.require("gtddp", params=params, batch=batch)
        inputs, targets = arguments.split_batch("gtddp", batch)
        own = _split(net, params)
        running = jax.tree.map(jnp.zeros_like, own) if updates is None else net.split(updates)
        samples = Samples(net.batch_size(inputs), axis_name)
        own = samples.local_copy(own)
        played = net.forward(
            own,
            inputs,
            state.batch_stats,
            samples.own_keys(rngs),
            samples,
            replayed=feedback and observer.replays,
        )
        plans, rolled, terminal_model = _step(played, targets, own, running, state, samples)
        ok = samples.all(
            all_finite(
                terminal_model.line.value,
                rolled.weights,
                first_order_changes(rolled),
                rolled.states,
                played.batch_stats,
            )
        )
        report = summarise(
            plans, rolled, terminal_model, loss_of(targets), samples, state.report, ~ok
        )
        return zero_unless(ok, net.merge(rolled.steps, params)), GTDDPState(
            choose(ok, rolled.states, state.curvature),
            report,
            choose(ok, played.batch_stats, state.batch_stats),
        )

    def loss_of(targets: Any) -> Callable[[Any], jax.Array]:
        return lambda outputs: loss(outputs, targets)

    def _step(
        played: Pass, targets: Any, params: Tree, running: Tree, state: GTDDPState, samples: Samples
    ) -> tuple[list[StagePlan], Rolled, Expansion]:
        model = terminal.expand(loss_of(targets), played.outputs)
        plans = plan(
            places(net.stages),
            played.moves(model.line.gradient, feedback=feedback),
            params,
            running,
            state.curvature,
            curvature,
            model,
            samples,
            feedback=feedback,
        )
        if not feedback:
            return plans, open_loop(plans), model
        eyes = observer(played, params)
        return plans, roll(plans, params, model, samples, eyes), model

    return optax.GradientTransformationExtraArgs(init, update)


def _check(net: Any, curvature: Any, terminal: Any, rollout: Any) -> None:
    if not isinstance(net, Playable):
        raise ValueError(
            "gtddp: net must be a gtddp_jax.Network or made by gtddp_jax.from_flax, got "
            f"{type(net).__name__}."
        )
    if not isinstance(curvature, Curvature):
        raise ValueError(
            f"gtddp: curvature must come from gtddp_jax.curvature, got {type(curvature).__name__}; "
            "an optax transformation goes in as gtddp_jax.curvature.from_optax(tx)."
        )
    if not isinstance(terminal, Terminal):
        raise ValueError(
            f"gtddp: terminal must come from gtddp_jax.terminal, got {terminal!r}; for example "
            "gtddp_jax.terminal.line(max_shift=1.0)."
        )
    if rollout not in ROLLOUTS:
        raise ValueError(f"Invalid rollout: {rollout!r}. Supported: {tuple(ROLLOUTS)}.")


def _split(net: Playable, params: Tree) -> dict[str, Any]:
    arguments.refuse_multi_steps(
        "gtddp", "gtddp_jax.curvature.from_optax(optax.MultiSteps(optax.adam(1e-3), 4))"
    )
    arguments.refuse_masked("gtddp", params)
    return net.split(params)


def make_update(
    tx: optax.GradientTransformationExtraArgs,
) -> Callable[..., tuple[Tree, Any]]:
    """The whole step, jitted: `params, state = step(params, state, batch, rngs=None)`.

    Args:
        tx: a transformation of this library, alone or in an optax chain.

    Returns:
        A function of `params`, `state`, `batch=(inputs, targets)` and, for a network with dropout,
        `rngs={"dropout": key}` that returns the new parameters and state. Its old arguments stay
        valid (nothing is donated).

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> net = gt.Network([nn.Dense(2)])
        >>> params = net.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> tx = gt.sgd(net, lambda outputs, y: jnp.square(outputs - y).sum(-1), 1e-2)
        >>> step = gt.make_update(tx)
        >>> params, state = step(params, tx.init(params), (jnp.ones((4, 3)), jnp.ones((4, 2))))
    """

    @jax.jit
    def step(
        params: Tree, state: Any, batch: tuple[Any, Any], rngs: Any = None
    ) -> tuple[Tree, Any]:
        zeros = jax.tree.map(jnp.zeros_like, params)
        extra = {} if rngs is None else {"rngs": rngs}
        updates, state = tx.update(zeros, state, params, batch=batch, **extra)
        return optax.apply_updates(params, updates), state

    return step
