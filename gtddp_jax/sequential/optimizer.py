"""`gtddp`, the sequential game as an optax transformation, and the compiled step."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from gtddp_jax.core.report import SampleWeightObserver, StepObserver
from gtddp_jax.core.transformation import game_transformation
from gtddp_jax.core.types import AxisName, Batch, Loss, Tree
from gtddp_jax.curvature import Curvature
from gtddp_jax.network.protocol import StagedNetwork
from gtddp_jax.sequential.auto_mode import update_in_auto_mode
from gtddp_jax.sequential.bandit_game import sequential_game
from gtddp_jax.terminal import ExactLoss, TerminalModel

Params = TypeVar("Params")
State = TypeVar("State")

DEFAULT_MAX_SHIFT = 1.0
DEFAULT_BOUNDS = (0.02, 10.0)
"""The default bounds of the sample weights. Without bounds, samples whose gradient almost vanishes
get unlimited weights."""


def gtddp(
    net: StagedNetwork,
    loss: Loss | None,
    curvature: Curvature,
    *,
    equilibrium: str = "feedback",
    terminal: TerminalModel | None = None,
    rollout: str = "linear",
    self_response: bool = False,
    axis_name: AxisName = None,
    batch_stats: Tree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Game-theoretic differential dynamic programming as an optax transformation.

    The layers of a network (the *players*) act in stages. Each stage weights the gradient of every
    sample by how much the stages before and after it already change that sample's loss in the same
    step (paper Alg. 1, Eq. 6, 9, 14).

    The transformation computes the gradient of the loss itself: `update` receives the batch. Its
    argument `updates` is the gradient of the *running cost*, a cost of the parameters that does not
    depend on the samples, such as weight decay; pass None or zeros if there is none.

    Args:
        net: the network, a `Network` or the result of `from_flax`.
        loss: `loss(outputs, targets) -> [B]`, one number per sample, twice differentiable, or None:
            then every update receives a function of losses (see `Losses`) that runs the network by
            `net.apply(params, x, train=True, ...)`. A loss
            that is linear in the outputs leaves all weights at 1, of which a warning tells; one
            that couples samples is played with weights of 1 (`Report.samples_coupled`).
        curvature: the base method, from `gtddp_jax.curvature`; includes the learning rate.
        equilibrium: what a player knows. "feedback": the plans of later stages and the moves of
            earlier ones, the game of the paper. "open_loop": nothing of the others, which is the
            base method itself, computed by the same code. `implicit` and `joint` play with more.
        terminal: the terminal model, from `gtddp_jax.terminal`. The default is
            `ExactLoss(max_shift=1.0, bounds=(0.02, 10.0))`, the exact loss with bounded weights.
        rollout: "linear" (cheap) or "nonlinear" (the paper's, one more forward pass).
        self_response: whether a stage also responds to its own step. True keeps both terms of the
            stage's curvature, `Q_uu = P^-1 + f_u^T V_xx f_u` (paper Eq. 25); False keeps the base
            method's, `Q_uu = P^-1` (paper Table 1). True trains better at high learning rates and
            needs two more sums over samples per stage.
        axis_name: the mapped axis of `pmap` or `shard_map` over which samples are distributed.
            Under `jit` with a sharded batch it is not needed.
        batch_stats: for a network with `nn.BatchNorm`, the initial running statistics, from
            `net.init_variables`.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose `update` requires `params` and
        `batch=(inputs, targets)`, inputs [B, ...], and `rngs={"dropout": key}` for a network with
        `nn.Dropout`. Its state has a `report` and the running `batch_stats`. To inspect the weights
        of single samples, pass `update` a callback, for example `observe=seen.append`; it is called
        with an array [stages, B] while `update` is traced.

    Raises:
        ValueError: an argument has the wrong type or value; the message lists what is supported.

    Warns:
        GameWarning: the loss is linear in the outputs, or steps run outside of `jax.jit`.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> net = gt.Network([nn.Dense(8), nn.tanh, gt.Residual([nn.Dense(8)]), nn.Dense(3)])
        >>> x, y = jnp.ones((4, 5)), jnp.array([0, 1, 2, 0])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.gtddp(net, loss, gt.curvature.Adam(1e-3))
        >>> params = net.init(jax.random.key(0), x)
        >>> state = tx.init(params)
        >>> updates, state = tx.update(None, state, params, batch=(x, y))
        >>> params = optax.apply_updates(params, updates)
        >>> bool(state.report.skipped)
        False
    """
    if terminal is None:
        terminal = ExactLoss(max_shift=DEFAULT_MAX_SHIFT, bounds=DEFAULT_BOUNDS)
    game = sequential_game(
        net=net,
        loss=loss,
        curvature=curvature,
        equilibrium=equilibrium,
        terminal=terminal,
        rollout=rollout,
        axis_name=axis_name,
        self_response=self_response,
    )
    # Checked here, so that missing statistics are reported before the first step.
    if loss is None:
        net.check_axes(axis_name)
        initial_batch_stats = {}
    else:
        initial_batch_stats = net.initial_batch_stats(batch_stats, axis_name)

    # Typed loosely, because optax's trees admit Python numbers, but no None within a state.
    def init(params: Any) -> Any:
        return game.init_state(params, initial_batch_stats)

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        batch: Any = None,
        losses: Any = None,
        rngs: Any = None,
        observe: SampleWeightObserver | None = None,
        observe_step: StepObserver | None = None,
        **extra_args: Any,
    ) -> tuple[Any, Any]:
        options = {"observe": observe, "rngs": rngs, "losses": losses, "extra_args": extra_args}
        return update_in_auto_mode(
            game, updates, state, params, batch, observe_step=observe_step, **options
        )

    return game_transformation(
        "gtddp",
        init,
        update,
        net,
        curvature,
        equilibrium=equilibrium,
        terminal=terminal,
        rollout=rollout,
    )


@runtime_checkable
class CompiledStep(Protocol):
    """The result of `make_update`."""

    def __call__(
        self,
        params: Params,
        state: State,
        batch: tuple[Batch, Batch],
        rngs: Mapping[str, PRNGKeyArray] | None = None,
    ) -> tuple[Params, State]:
        """One step: the new parameters and the new state."""
        ...


def make_update(tx: optax.GradientTransformationExtraArgs) -> CompiledStep:
    """Compiles a whole step: `params, state = step(params, state, batch, rngs=None)`.

    Args:
        tx: a transformation of this library, alone or in an `optax.chain`.

    Returns:
        A jitted function of `params`, `state`, `batch=(inputs, targets)` and, for a network with
        dropout, `rngs={"dropout": key}`. It returns the new parameters and the new state, and does
        not donate its arguments.

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
    def step(params: Any, state: Any, batch: tuple[Any, Any], rngs: Any = None) -> tuple[Any, Any]:
        # Members of a chain before `tx` expect an array per parameter, not None.
        running_gradient = jax.tree.map(jnp.zeros_like, params)
        extra_args = {} if rngs is None else {"rngs": rngs}
        updates, state = tx.update(running_gradient, state, params, batch=batch, **extra_args)
        return optax.apply_updates(params, updates), state

    return step
