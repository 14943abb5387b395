"""`verify`: the guarantees of the library, checked on the user's own model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from gtddp_jax import curvature, reference
from gtddp_jax.core import arguments
from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import Batch, Loss, Outputs, PerSample, Tree
from gtddp_jax.network.protocol import Playable, by_stage
from gtddp_jax.network.table import aligned
from gtddp_jax.optimizer import BOUNDS, gtddp
from gtddp_jax.terminal import line

RATE = 0.01
STEPS = 3


class Check(NamedTuple):
    """One line of the table.

    Attributes:
        name: what is compared.
        error: the relative error, or another figure that should be small.
        bound: what it may be at most.
        note: what else there is to say.
    """

    name: str
    error: float
    bound: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the figure is finite and within its bound."""
        return bool(self.error <= self.bound)


class Verification(NamedTuple):
    """The outcome of `verify`; `print` shows it as a table.

    Attributes:
        checks: the checks, in order.
    """

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all checks hold."""
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        rows = [("check", "error", "bound", "", "note")]
        for c in self.checks:
            rows.append(
                (c.name, f"{c.error:.1e}", f"{c.bound:.0e}", "ok" if c.ok else "FAIL", c.note)
            )
        return "\n".join(aligned(rows))


def log_cosh(outputs: Outputs, targets: Batch = None) -> PerSample:
    """A smooth convex loss for outputs of any form: the sum of log cosh, [B]; without targets."""
    del targets
    parts = [
        jnp.log(jnp.cosh(x - 0.5)).reshape(x.shape[0], -1).sum(1) for x in jax.tree.leaves(outputs)
    ]
    return jnp.stack(parts).sum(0)


def verify(
    net: Playable,
    params: Tree,
    batch: tuple[Batch, Batch],
    *,
    loss: Loss = log_cosh,
    batch_stats: Tree = None,
    rngs: Tree = None,
) -> Verification:
    """Checks on a small batch that the game on this network is the one that is defined.

    Per-sample gradients are taken by automatic differentiation of the whole network, one sample's
    loss after the other, and the step by the dense definition in `gtddp_jax.reference`; nothing of
    the fast path is used for either. All parameters are held once a sample: use a small batch.

    Args:
        net: a `gt.Network`, or what `gt.from_flax` returned.
        params: its parameters.
        batch: `(inputs, targets)`, two to eight samples.
        loss: `loss(outputs, targets) -> [B]`; by default a smooth loss without targets.
        batch_stats: running statistics, if the network has any.
        rngs: random keys, if it draws random numbers in training.

    Returns:
        The checks; `print` it for a table, `.ok` tells whether all hold. Where samples are coupled
        (BatchNorm) single gradients have no definition to be compared with, and only their sum is
        checked. Bounds follow the precision of the parameters: 1e-9 in float64.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> import gtddp_jax as gt
        >>> model = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(2)])
        >>> x = jax.random.normal(jax.random.key(1), (3, 5))
        >>> net = gt.from_flax(model, x)
        >>> found = gt.verify(net, net.init(jax.random.key(0), x), (x, None))
        >>> found.ok
        True
    """
    inputs, targets = arguments.split_batch("verify", batch)
    size = net.batch_size(inputs)
    state = net.initial_batch_stats(batch_stats, None)
    given = _Given(params, (inputs, targets), state, rngs)
    own = net.split(params)
    exact = all(x.dtype == jnp.float64 for x in jax.tree.leaves(own))
    bound = 1e-9 if exact else 2e-3

    def outputs_of(own: Tree, inputs: Any = inputs) -> Any:
        return net.forward(own, inputs, state, rngs, Samples(size), replayed=False).outputs

    def losses(own: Tree) -> jax.Array:
        return loss(outputs_of(own), targets)

    forward = jax.jit(outputs_of)
    separate = _independence(forward, own, inputs, size, bound)
    jacobian = jax.jit(jax.jacrev(losses))(own)
    sums = jax.jit(lambda own: _sums(net, given, own, loss))(own)
    checks = [separate if separate.ok else _coupled(separate)]
    checks.append(_gradient(sums, jacobian, size, bound))
    if separate.ok:
        checks.append(_single(sums, own, jacobian, bound))
    step, report = _game_step(net, given, loss)
    if separate.ok:
        want = _dense_step(net, given, jacobian, forward(own, inputs), loss)
        checks.append(_step(net.split(step), want, bound))
    checks.append(_off(net, given, losses, loss, 1e-9 if exact else 1e-3))
    checks.append(_finite(report))
    return Verification(tuple(checks))


class _Given(NamedTuple):
    """What the user gave."""

    params: Tree
    batch: tuple[Batch, Batch]
    state: Tree
    rngs: Any


def _error(got: Tree, want: Tree) -> float:
    a, b = (np.asarray(ravel_pytree(tree)[0], np.float64) for tree in (got, want))
    size = np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / (size if size > 0 else 1.0))


def _independence(forward: Any, own: Tree, inputs: Any, size: int, bound: float) -> Check:
    """The outputs of the first sample when the others are replaced by copies of it."""
    same = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x)[:1], jnp.shape(x)), inputs)
    first = [jax.tree.map(lambda v: v[0], forward(own, given)) for given in (inputs, same)]
    return Check("samples are separate", _error(first[1], first[0]), bound, f"{size} samples")


def _coupled(check: Check) -> Check:
    note = "coupled (batch statistics, or layers that mix samples); weights treat them as separate"
    return check._replace(bound=float("inf"), note=note)


def _sums(net: Playable, given: _Given, own: Tree, loss: Loss) -> Any:
    """For each player the sums over samples that the library computes."""
    inputs, targets = given.batch
    size = net.batch_size(inputs)
    played = net.forward(own, inputs, given.state, given.rngs, Samples(size), replayed=False)
    expansion = line(max_shift=None).expand(lambda outputs: loss(outputs, targets), played.outputs)
    moves: dict[str, Any] = {}
    for stage in played.moves(expansion.line.gradient, feedback=True):
        moves |= stage
    found = {}
    for name, move in moves.items():
        change, diagonal = _probes(own[name])
        sums = move.samples
        found[name] = (
            sums.weighted(None),
            sums.weighted(_weights(size)),
            sums.dot(change),
            sums.square(diagonal),
        )
    return found


def _gradient(played: Any, jacobian: Tree, size: int, bound: float) -> Check:
    got = {name: sums[0] for name, sums in played.items()}
    want = jax.tree.map(lambda g: g.sum(0), jacobian)
    return Check("gradient, the sum over samples", _error(got, want), bound, f"{size} samples")


def _single(played: Any, own: Tree, jacobian: Tree, bound: float) -> Check:
    """Weighted sums, directional derivatives and quadratic forms of each player."""
    worst, who = 0.0, ""
    for name, (_, *got) in played.items():
        big = jax.vmap(lambda g: ravel_pytree(g)[0])(jacobian[name])
        k, d = (np.asarray(ravel_pytree(tree)[0]) for tree in _probes(own[name]))
        want = _weights(big.shape[0]) @ big, big @ k, jnp.square(big) @ d
        error = max(_error(a, b) for a, b in zip(got, want, strict=True))
        if error > worst:
            worst, who = error, name
    return Check("gradients of single samples", worst, bound, f"largest in {who}")


def _weights(size: int) -> jax.Array:
    return jnp.linspace(0.5, 1.5, size)


def _probes(own: Tree) -> tuple[Tree, Tree]:
    """A change of the parameters, and a diagonal."""
    change = jax.tree.map(jnp.cos, own)
    return change, jax.tree.map(jnp.abs, change)


def _game_step(net: Playable, given: _Given, loss: Loss) -> tuple[Tree, Any]:
    """A step of the game with a plain metric, and its report."""
    tx: Any = gtddp(net, loss, curvature.identity(RATE), batch_stats=given.state)
    step, state = jax.jit(tx.update)(
        None, tx.init(given.params), given.params, batch=given.batch, rngs=given.rngs
    )
    return step, state.report


def _dense_step(net: Playable, given: _Given, jacobian: Tree, outputs: Tree, loss: Loss) -> Tree:
    """The same step by definition, `{player: tree}`."""
    stages = by_stage(net.stages, jacobian)
    own = by_stage(net.stages, net.split(given.params))

    def gains(t: int, q: jax.Array) -> reference.Gains:
        del t
        return reference.Gains(-RATE * q, jnp.full_like(q, RATE), lambda closed: -RATE * closed)

    def dense(stages: list[Tree]) -> list[jax.Array]:
        gradients = [jax.vmap(lambda g: ravel_pytree(g)[0])(stage) for stage in stages]
        costs = [jnp.zeros(g.shape[1], g.dtype) for g in gradients]
        return reference.line_rollout(
            gradients,
            costs,
            outputs,
            loss,
            given.batch[1],
            gains,
            max_shift=1.0,
            bounds=BOUNDS,
        )

    found: Tree = {}
    for params, step in zip(own, jax.jit(dense)(stages), strict=True):
        found |= ravel_pytree(params)[1](step)
    return found


def _step(got: Tree, want: Tree, bound: float) -> Check:
    errors = {name: _error(got[name], want[name]) for name in want}
    who = max(errors, key=lambda name: errors[name])
    return Check("step, against the dense definition", errors[who], bound, f"largest in {who}")


def _off(net: Playable, given: _Given, losses: Any, loss: Loss, bound: float) -> Check:
    """Some steps with feedback off against optax; with a base that does not amplify rounding."""
    metric = curvature.identity(RATE, momentum=0.9)
    tx: Any = gtddp(net, loss, metric, feedback=False, batch_stats=given.state)
    base = optax.sgd(RATE, momentum=0.9)

    @jax.jit
    def both(ours: tuple, theirs: tuple) -> tuple[tuple, tuple]:
        step, state = tx.update(None, ours[1], ours[0], batch=given.batch, rngs=given.rngs)
        gradient = jax.grad(lambda own: losses(own).mean())(net.split(theirs[0]))
        change, after = base.update(net.merge(gradient, theirs[0]), theirs[1], theirs[0])
        state = state._replace(batch_stats=given.state)  # random streams stand still
        return (
            (optax.apply_updates(ours[0], step), state),
            (optax.apply_updates(theirs[0], change), after),
        )

    ours, theirs = (given.params, tx.init(given.params)), (given.params, base.init(given.params))
    for _ in range(STEPS):
        ours, theirs = both(ours, theirs)
    moved = [optax.tree.sub(p, given.params) for p in (ours[0], theirs[0])]
    return Check("feedback off, against optax.sgd", _error(*moved), bound, f"{STEPS} steps")


def _finite(report: Any) -> Check:
    """Weights are finite and the step is taken."""
    bad = float(report.skipped) + float(~jnp.isfinite(report.weight_max - report.weight_min))
    note = f"weights {report.weight_min:.3f} to {report.weight_max:.3f}"
    return Check("weights are finite, the step is taken", bad, 0.0, note)
