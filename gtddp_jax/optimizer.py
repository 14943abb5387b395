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
from gtddp_jax.curvature import Curvature, Move
from gtddp_jax.game import adjoints
from gtddp_jax.game.backward import StagePlan, places, plan
from gtddp_jax.game.rollout import ROLLOUTS, Rolled, open_loop, roll
from gtddp_jax.game.summary import first_order_changes, summarise
from gtddp_jax.network import Network, Stage
from gtddp_jax.players import sample_gradients
from gtddp_jax.terminal import Expansion, Terminal, line

Tree = Any
Loss = Callable[[jax.Array, Any], jax.Array]


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
    net: Network,
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
    _check_batch_stats(net, axis_name, batch_stats)
    observer = ROLLOUTS[rollout]

    def init(params: Tree) -> GTDDPState:
        _check_params(net, params)
        states = tuple(
            curvature.init({name: params[name] for name in place.stage.players}, place)
            for place in places(net.stages)
        )
        report = empty_report(len(net.stages), ratios=len(net.stages))
        return GTDDPState(states, report, jax.tree.map(jnp.array, dict(batch_stats or {})))

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
        _check_params(net, params)
        running = jax.tree.map(jnp.zeros_like, params) if updates is None else updates
        samples = Samples(inputs.shape[0], axis_name)
        stages = net.bind(state.batch_stats, train=True, rngs=samples.own_keys(rngs))
        plans, rolled, terminal_model, statistics = _step(
            stages, inputs, targets, params, running, state, samples
        )
        ok = samples.all(
            all_finite(
                terminal_model.line.value,
                rolled.weights,
                first_order_changes(rolled),
                rolled.states,
                statistics,
            )
        )
        report = summarise(
            plans, rolled, terminal_model, loss_of(targets), samples, state.report, ~ok
        )
        steps = {name: rolled.steps[name] for name in params}
        return zero_unless(ok, steps), GTDDPState(
            choose(ok, rolled.states, state.curvature),
            report,
            choose(ok, statistics, state.batch_stats),
        )

    def loss_of(targets: Any) -> Callable[[jax.Array], jax.Array]:
        return lambda outputs: loss(outputs, targets)

    def _step(
        stages: tuple[Stage, ...],
        inputs: jax.Array,
        targets: Any,
        params: Tree,
        running: Tree,
        state: GTDDPState,
        samples: Samples,
    ) -> tuple[list[StagePlan], Rolled, Expansion, Tree]:
        params = samples.local_copy(params)
        trajectory = adjoints.forward(stages, params, inputs)
        model = terminal.expand(loss_of(targets), trajectory.outputs)
        back = adjoints.backward(stages, trajectory, model.line.gradient)
        moves = [
            {
                act.name: Move(
                    trajectory.values[act.source],
                    back.moves[act.target],
                    sample_gradients(
                        act,
                        params[act.name],
                        trajectory.values[act.source],
                        back.moves[act.target],
                        feedback=feedback,
                    ),
                )
                for act in stage.acts
            }
            for stage in stages
        ]
        statistics = {**state.batch_stats, **common_statistics(net, trajectory, samples)}
        plans = plan(
            places(stages),
            moves,
            params,
            running,
            state.curvature,
            curvature,
            model,
            samples,
            feedback=feedback,
        )
        if not feedback:
            return plans, open_loop(plans), model, statistics
        eyes = observer(stages, params, trajectory, back, model)
        return plans, roll(plans, params, model, samples, eyes), model, statistics

    return optax.GradientTransformationExtraArgs(init, update)


def _check(net: Any, curvature: Any, terminal: Any, rollout: Any) -> None:
    if not isinstance(net, Network):
        raise ValueError(f"gtddp: net must be a gtddp_jax.Network, got {type(net).__name__}.")
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


def _check_batch_stats(net: Network, axis_name: Any, batch_stats: Any) -> None:
    net.check_batch_stats(batch_stats)
    for op in net.normalisations:
        others = [axis for axis in op.axes if axis not in Samples(0, axis_name).axes]
        if others:
            raise ValueError(
                f"gtddp: {op.name} synchronises its statistics over the mapped axis {others[0]!r}, "
                f"but gtddp has axis_name={axis_name!r}. Pass gtddp the same axis_name, or leave "
                "it out of nn.BatchNorm (under jit with a sharded batch nothing is needed)."
            )


def common_statistics(net: Network, trajectory: adjoints.Trajectory, samples: Samples) -> Tree:
    """The running statistics that a step emitted, the same on all devices.

    A layer without `axis_name` has normalised each device's samples by their own statistics; the
    running ones are the mean over devices.
    """
    found = dict(trajectory.batch_stats)
    for op in net.normalisations:
        axes = op.unsynchronised(samples.axes)
        if axes and op.name in found:
            found[op.name] = jax.lax.pmean(found[op.name], axes)
    return found


def _check_params(net: Network, params: Tree) -> None:
    arguments.refuse_multi_steps(
        "gtddp", "gtddp_jax.curvature.from_optax(optax.MultiSteps(optax.adam(1e-3), 4))"
    )
    arguments.refuse_masked("gtddp", params)
    net.check_params(params)


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
