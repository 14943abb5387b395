"""`verify`: check the guarantees of this library on a user's model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from gtddp_jax import curvature
from gtddp_jax.core import validation
from gtddp_jax.core.report import Report
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import Batch, Loss, Outputs, PerSample, PlayerTrees, Tree
from gtddp_jax.explain.text_table import align_columns
from gtddp_jax.network.protocol import NetworkPass, StagedNetwork, params_by_stage
from gtddp_jax.reference.ddp import Gains
from gtddp_jax.reference.exact_loss_rollout import exact_loss_rollout
from gtddp_jax.sequential.optimizer import DEFAULT_BOUNDS, DEFAULT_MAX_SHIFT, gtddp
from gtddp_jax.terminal import ExactLoss

LEARNING_RATE = 0.01
FEEDBACK_OFF_STEPS = 3


class VerificationCheck(NamedTuple):
    """One row of the table.

    Attributes:
        name: what is compared.
        error: the relative error, or another number that should be small.
        bound: the largest error that passes.
        note: details.
    """

    name: str
    error: float
    bound: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the error is finite and within its bound."""
        return bool(self.error <= self.bound)


class Verification(NamedTuple):
    """The result of `verify`; `print` shows it as a table.

    Attributes:
        checks: the checks, in order.
    """

    checks: tuple[VerificationCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether all checks pass."""
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        rows = [("check", "error", "bound", "", "note")]
        for check in self.checks:
            verdict = "ok" if check.ok else "FAIL"
            error, bound = f"{check.error:.1e}", f"{check.bound:.0e}"
            rows.append((check.name, error, bound, verdict, check.note))
        return "\n".join(align_columns(rows))


def log_cosh(outputs: Outputs, targets: Batch | None = None) -> PerSample:
    """A smooth convex loss that needs no targets: the sum of log cosh over all outputs, [B]."""
    del targets
    sums = [
        jnp.log(jnp.cosh(leaf - 0.5)).reshape(leaf.shape[0], -1).sum(1)
        for leaf in jax.tree.leaves(outputs)
    ]
    return jnp.stack(sums).sum(0)


def verify(
    net: StagedNetwork,
    params: Tree,
    batch: tuple[Batch, Batch | None],
    *,
    loss: Loss = log_cosh,
    batch_stats: Tree | None = None,
    rngs: Tree | None = None,
) -> Verification:
    """Check this network's GT-DDP step against the dense reference.

    Per-sample gradients come from automatic differentiation of the whole network, and the step from
    the definition in `gtddp_jax.reference`; neither uses the optimizer's code. The check stores one
    copy of the parameters per sample, so use a small batch.

    Args:
        net: a `gt.Network`, or the result of `gt.from_flax`.
        params: its parameters.
        batch: `(inputs, targets)`, two to eight samples.
        loss: `loss(outputs, targets) -> [B]`; the default is a smooth loss that needs no targets.
        batch_stats: running statistics, if the network has any.
        rngs: random keys by collection, if the network draws random numbers in training.

    Returns:
        The checks: `print` shows them as a table, `.ok` is True if all pass. Error bounds follow
        the precision of the parameters, 1e-9 in float64. Where samples are coupled (BatchNorm), the
        gradient of a single sample has no definition to compare with, so only the sum over samples
        is checked.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> model = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(2)])
        >>> x = jax.random.normal(jax.random.key(1), (3, 5))
        >>> net = gt.from_flax(model, x)
        >>> verification = gt.verify(net, net.init(jax.random.key(0), x), (x, None))
        >>> verification.ok
        True
    """
    inputs, targets = validation.split_batch("verify", batch)
    statistics = net.initial_batch_stats(batch_stats, None)
    model = _VerifiedModel(net, params, inputs, targets, statistics, rngs, loss)
    # Reference and optimizer round differently, so the bound follows the precision.
    player_params = net.split(params)
    is_float64 = all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(player_params))
    bound = 1e-9 if is_float64 else 2e-3

    forward = jax.jit(model.outputs)
    # Single gradients are defined only if no sample changes the outputs of another one.
    separate = _check_separate_samples(model, forward, player_params, bound)
    # The Jacobian of the losses by the parameters has the gradient of each sample in its rows.
    jacobian = jax.jit(jax.jacrev(model.losses))(player_params)
    sums = jax.jit(lambda player_params: _library_sums(model, player_params))(player_params)
    checks = [separate if separate.ok else _allow_coupling(separate)]
    checks.append(_check_gradient(sums, jacobian, model.batch_size, bound))
    if separate.ok:
        checks.append(_check_sample_gradients(sums, player_params, jacobian, bound))
    step, report = _library_step(model)
    if separate.ok:
        expected = _reference_step(model, jacobian, forward(player_params, inputs))
        checks.append(_check_step(net.split(step), expected, bound))
    checks.append(_check_feedback_off(model, 1e-9 if is_float64 else 1e-3))
    checks.append(_check_weights(report))
    return Verification(tuple(checks))


class _VerifiedModel(NamedTuple):
    """The arguments of `verify`, checked."""

    net: StagedNetwork
    params: Tree
    inputs: Batch
    targets: Any
    batch_stats: Tree
    rngs: Any
    loss: Loss

    @property
    def batch(self) -> tuple[Batch, Any]:
        return self.inputs, self.targets

    @property
    def batch_size(self) -> int:
        return self.net.batch_size(self.inputs)

    def forward_pass(self, player_params: PlayerTrees, inputs: Batch) -> NetworkPass:
        samples = SampleReductions(self.batch_size)
        return self.net.forward(
            player_params, inputs, self.batch_stats, self.rngs, samples, replayed=False
        )

    def outputs(self, player_params: PlayerTrees, inputs: Batch) -> Outputs:
        return self.forward_pass(player_params, inputs).outputs

    def losses(self, player_params: PlayerTrees) -> PerSample:
        return self.loss(self.outputs(player_params, self.inputs), self.targets)


class _PlayerSums(NamedTuple):
    """The optimizer's three reductions over one player's per-sample gradients G_i."""

    gradient: Tree
    weighted_sum: Tree
    directional_derivative: PerSample
    quadratic_form: PerSample


def _relative_error(actual: Any, expected: Any) -> float:
    # In float64, so that the comparison adds no rounding of its own.
    a, b = (np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (actual, expected))
    norm = np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / (norm if norm > 0 else 1.0))


def _check_separate_samples(
    model: _VerifiedModel, forward: Callable[..., Any], player_params: PlayerTrees, bound: float
) -> VerificationCheck:
    """The outputs of the first sample must not change when the others become copies of it."""
    # Every sample becomes the first one: separate samples leave its outputs as they are.
    copies = jax.tree.map(
        lambda leaf: jnp.broadcast_to(jnp.asarray(leaf)[:1], jnp.shape(leaf)), model.inputs
    )
    expected, actual = (
        jax.tree.map(lambda leaf: leaf[0], forward(player_params, inputs))
        for inputs in (model.inputs, copies)
    )
    error = _relative_error(actual, expected)
    note = f"{model.batch_size} samples"
    return VerificationCheck("samples are separate", error, bound, note)


def _allow_coupling(check: VerificationCheck) -> VerificationCheck:
    note = "coupled (batch statistics, or layers that mix samples); weights treat them as separate"
    return check._replace(bound=float("inf"), note=note)


def _library_sums(model: _VerifiedModel, player_params: PlayerTrees) -> dict[str, _PlayerSums]:
    """The optimizer's reductions over samples for each player."""
    network_pass = model.forward_pass(player_params, model.inputs)
    expansion = ExactLoss(max_shift=None).expand(
        lambda outputs: model.loss(outputs, model.targets), network_pass.outputs
    )
    # Arbitrary weights, directions and diagonals, so that errors do not cancel.
    weights = _probe_weights(model.batch_size)
    sums: dict[str, _PlayerSums] = {}
    for tapes in network_pass.player_tapes(expansion.exact_loss.gradient, feedback=True):
        for name, tape in tapes.items():
            change, diagonal = _probe_trees(player_params[name])
            gradients = tape.sample_gradients
            sums[name] = _PlayerSums(
                gradients.weighted_sum(None),
                gradients.weighted_sum(weights),
                gradients.directional_derivative(change),
                gradients.quadratic_form(diagonal),
            )
    return sums


def _check_gradient(
    sums: Mapping[str, _PlayerSums], jacobian: Any, batch_size: int, bound: float
) -> VerificationCheck:
    actual = {name: player_sums.gradient for name, player_sums in sums.items()}
    expected = jax.tree.map(lambda leaf: leaf.sum(0), jacobian)
    error = _relative_error(actual, expected)
    return VerificationCheck(
        "gradient, the sum over samples", error, bound, f"{batch_size} samples"
    )


def _check_sample_gradients(
    sums: Mapping[str, _PlayerSums], player_params: PlayerTrees, jacobian: Any, bound: float
) -> VerificationCheck:
    """Weighted sums, directional derivatives and quadratic forms of each player."""
    errors: dict[str, float] = {}
    for name, player_sums in sums.items():
        big_g = jax.vmap(lambda tree: ravel_pytree(tree)[0])(jacobian[name])
        change, diagonal = (
            np.asarray(ravel_pytree(tree)[0]) for tree in _probe_trees(player_params[name])
        )
        weighted_sum = _probe_weights(big_g.shape[0]) @ big_g
        expected = (weighted_sum, big_g @ change, jnp.square(big_g) @ diagonal)
        pairs = zip(player_sums[1:], expected, strict=True)
        errors[name] = max(_relative_error(actual, value) for actual, value in pairs)
    return _check_players("gradients of single samples", errors, bound)


def _check_players(name: str, errors: Mapping[str, float], bound: float) -> VerificationCheck:
    worst = max(errors, key=lambda player: errors[player])
    return VerificationCheck(name, errors[worst], bound, f"largest in {worst}")


def _probe_weights(batch_size: int) -> jax.Array:
    return jnp.linspace(0.5, 1.5, batch_size)


def _probe_trees(params: Tree) -> tuple[Tree, Tree]:
    """A change of the parameters, and a positive diagonal, both without symmetries."""
    change = jax.tree.map(jnp.cos, params)
    return change, jax.tree.map(jnp.abs, change)


def _library_step(model: _VerifiedModel) -> tuple[Tree, Report]:
    """A step of the optimizer with SGD, and its report."""
    tx: Any = gtddp(
        model.net, model.loss, curvature.SGD(LEARNING_RATE), batch_stats=model.batch_stats
    )
    step, state = jax.jit(tx.update)(
        None, tx.init(model.params), model.params, batch=model.batch, rngs=model.rngs
    )
    return step, state.report


def _reference_step(model: _VerifiedModel, jacobian: Any, outputs: Outputs) -> PlayerTrees:
    """The same step by definition, `{player: tree}`."""

    def gain_rule(t: int, q: jax.Array) -> Gains:
        del t
        # The inverse metric is a multiple of the identity, given by its diagonal.
        inverse = jnp.full_like(q, LEARNING_RATE)
        return Gains(-LEARNING_RATE * q, inverse, lambda closed: -LEARNING_RATE * closed)

    def reference_steps(stage_jacobians: Sequence[Any]) -> list[jax.Array]:
        gradients = [
            jax.vmap(lambda tree: ravel_pytree(tree)[0])(stage_jacobian)
            for stage_jacobian in stage_jacobians
        ]
        # `_library_step` passes no running cost.
        costs = [jnp.zeros(big_g.shape[1], big_g.dtype) for big_g in gradients]
        return exact_loss_rollout(
            gradients,
            costs,
            outputs,
            model.loss,
            model.targets,
            gain_rule,
            max_shift=DEFAULT_MAX_SHIFT,
            bounds=DEFAULT_BOUNDS,
        )

    stages = model.net.stages
    steps = jax.jit(reference_steps)(params_by_stage(stages, jacobian))
    player_steps: dict[str, Tree] = {}
    stage_params = params_by_stage(stages, model.net.split(model.params))
    for params, step in zip(stage_params, steps, strict=True):
        player_steps |= ravel_pytree(params)[1](step)
    return player_steps


def _check_step(actual: PlayerTrees, expected: PlayerTrees, bound: float) -> VerificationCheck:
    errors = {name: _relative_error(actual[name], expected[name]) for name in expected}
    return _check_players("step, against the dense definition", errors, bound)


def _check_feedback_off(model: _VerifiedModel, bound: float) -> VerificationCheck:
    """Some steps without feedback must equal optax's.

    The base is SGD with momentum, which does not amplify rounding errors as Adam does.
    """
    net, params = model.net, model.params
    metric = curvature.SGD(LEARNING_RATE, momentum=0.9)
    tx: Any = gtddp(net, model.loss, metric, equilibrium="open_loop", batch_stats=model.batch_stats)
    base = optax.sgd(LEARNING_RATE, momentum=0.9)

    @jax.jit
    def step_both(library: tuple[Any, Any], plain: tuple[Any, Any]) -> tuple[Any, Any]:
        (library_params, library_state), (plain_params, plain_state) = library, plain
        step, state = tx.update(
            None, library_state, library_params, batch=model.batch, rngs=model.rngs
        )
        # Statistics and random streams stay as given, because `losses` uses the given ones.
        state = state._replace(batch_stats=model.batch_stats)
        gradient: Any = jax.grad(lambda players: model.losses(players).mean())(
            net.split(plain_params)
        )
        change, plain_state = base.update(
            net.merge(gradient, plain_params), plain_state, plain_params
        )
        library_params = optax.apply_updates(library_params, step)
        plain_params = optax.apply_updates(plain_params, change)
        return (library_params, state), (plain_params, plain_state)

    # Both start from the same parameters and are compared after a few steps, momentum included.
    library, plain = (params, tx.init(params)), (params, base.init(params))
    for _ in range(FEEDBACK_OFF_STEPS):
        library, plain = step_both(library, plain)
    changes = [optax.tree.sub(new_params, params) for new_params in (library[0], plain[0])]
    return VerificationCheck(
        "feedback off, against optax.sgd",
        _relative_error(*changes),
        bound,
        f"{FEEDBACK_OFF_STEPS} steps",
    )


def _check_weights(report: Report) -> VerificationCheck:
    """The weights must be finite and the step taken."""
    smallest, largest = report.sample_weight_min, report.sample_weight_max
    failures = float(report.skipped) + float(~jnp.isfinite(largest - smallest))
    note = f"weights {smallest:.3f} to {largest:.3f}"
    return VerificationCheck("weights are finite, the step is taken", failures, 0.0, note)
