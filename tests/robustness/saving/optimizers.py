"""Every public optimizer on a tiny model, as a step, and the states between which to save."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx

import gtddp_jax as gt

Tree = Any
BATCH = 4
X = jnp.sin(jnp.arange(3.0 * BATCH, dtype=jnp.float32)).reshape(BATCH, 3)
LABELS = jnp.arange(BATCH) % 3
LOSS = optax.softmax_cross_entropy_with_integer_labels
NET = gt.Network([nn.Dense(3), nn.tanh, nn.Dense(3)])
NORMED = gt.Network([nn.Dense(3), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(3)])
BRANCHES = gt.Network([gt.split(nn.Dense(3), 3), nn.tanh, nn.Dense(3)])
COOPERATING = gt.Network([gt.Cooperative([nn.Dense(3), nn.Dense(3)]), nn.tanh, nn.Dense(3)])
PLACED = gt.Network(
    [gt.Residual([nn.Dense(3), nn.tanh, nn.Dense(3)], nn.Dense(3), at="bandit"), nn.Dense(3)]
)
KEY = jax.random.key(0)


class Case(NamedTuple):
    """An optimizer with its parameters, and how a step calls it.

    Attributes:
        tx: the optimizer.
        params: its initial parameters.
        rngs: whether its steps take random keys.
        has_statistics: whether the inputs are pairs with the statistics of the last step.
    """

    tx: Any
    params: Tree
    rngs: bool = False
    has_statistics: bool = False


class OptimizerRun(NamedTuple):
    """Steps of an optimizer.

    Attributes:
        step: from parameters, state and number of the step to the next parameters and state.
        init: makes the initial state.
        params: the initial parameters.
    """

    step: Any
    init: Callable[[], Tree]
    params: Tree


class SavedRun(NamedTuple):
    """A run of five steps.

    Attributes:
        step: as in `OptimizerRun`.
        init: likewise.
        params: the parameters after two steps.
        state: the state after two steps.
        final: parameters and state after five steps.
    """

    step: Any
    init: Callable[[], Tree]
    params: Tree
    state: Tree
    final: tuple[Tree, Tree]


def _on(net: Any, make: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Case]:
    """A sequential optimizer on a network without statistics."""
    return lambda: Case(make(net, LOSS, *args, **options), net.init(KEY, X))


def _implicit(base: Any, **options: Any) -> Callable[[], Case]:
    return lambda: Case(gt.implicit(base, NET, LOSS, **options), NET.init(KEY, X))


def _normed() -> Case:
    variables = NORMED.init_variables(KEY, X)
    tx = gt.adam(NORMED, LOSS, 1e-2, batch_stats=variables["batch_stats"])
    return Case(tx, variables["params"], rngs=True)


def _with_aux(dtype: Any = jnp.float32) -> Case:
    net = gt.Network([nn.Dense(3), nn.BatchNorm(), nn.Dense(3)])
    variables: Any = net.init_variables(KEY, X)

    def apply_net(params: Tree, inputs: Any) -> Any:
        x, statistics = inputs
        return net.apply(params, x, batch_stats=statistics, train=True)

    base = optax.sgd(0.1, momentum=0.9)
    tx = gt.implicit(base, apply_net, LOSS, has_aux=True, aux=variables["batch_stats"])
    return Case(tx, optax.tree.cast(variables["params"], dtype), has_statistics=True)


def _bfloat16(make: Callable[..., Any]) -> Callable[[], Case]:
    return lambda: Case(make(), optax.tree.cast(NET.init(KEY, X), jnp.bfloat16))


class _Dropping(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(3, 3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.dropout(nnx.tanh(self.first(x))))


def _nnx() -> Case:
    model = _Dropping()
    net = gt.from_flax(model, X)
    statistics = net.init_variables(KEY, X)["batch_stats"]
    return Case(gt.sgd(net, LOSS, 0.1, batch_stats=statistics), nnx.state(model, nnx.Param))


CASES: dict[str, Callable[[], Case]] = {
    "sgd": _on(NET, gt.sgd, 0.1, 0.9, rollout="nonlinear"),
    "rmsprop": _on(NET, gt.rmsprop, 1e-2),
    "adam": _on(NET, gt.adam, optax.cosine_decay_schedule(1e-2, 9)),
    "adamw": _on(NET, gt.adamw, 1e-2),
    "adam, learned placement": _on(PLACED, gt.adam, 1e-2),
    "kfac": _on(NET, gt.kfac, 0.1),
    "ekfac": _on(NET, gt.ekfac, 0.1),
    "soap": _on(NET, gt.soap, 1e-2, precondition_frequency=2),
    "scale_by_gt_ekfac": _on(NET, gt.scale_by_gt_ekfac),
    "gtddp": _on(NET, gt.gtddp, gt.curvature.FromOptax(optax.lion(1e-2))),
    "paper_gtddp": _on(NET, gt.paper_gtddp, gt.curvature.RMSProp(1e-2)),
    "gtddp, cooperative": _on(COOPERATING, gt.gtddp, gt.curvature.KFAC(0.1)),
    "kfac, three cooperating": _on(BRANCHES, gt.kfac, 0.1, cooperative="joint"),
    "ekfac, a player without factors": _on(
        gt.Network([nn.Dense(3), nn.LayerNorm(), nn.Dense(3)]), gt.ekfac, 0.1, momentum=0.9
    ),
    "adam, statistics and keys": _normed,
    "adam, bfloat16": _bfloat16(lambda: gt.adam(NET, LOSS, 1e-2)),
    "sgd, nnx model": _nnx,
    "implicit": _implicit(optax.adam(1e-2)),
    "implicit, full": _implicit(optax.sgd(0.1, momentum=0.9), weighting="full"),
    "implicit, aux": _with_aux,
    "implicit, accumulated": _implicit(optax.MultiSteps(optax.adam(1e-2), 2)),
    "implicit, in a chain": lambda: Case(
        optax.chain(
            optax.add_decayed_weights(1e-3),
            optax.inject_hyperparams(
                lambda rate: gt.implicit(optax.adam(rate), NET, LOSS, weighting="full")
            )(rate=1e-2),
        ),
        NET.init(KEY, X),
    ),
    "joint": lambda: Case(
        gt.joint(
            gt.supervised_term(NET.apply, LOSS),
            gt.damping.LevenbergMarquardt(),
            0.9,
            gt.metrics.MARCHMetric(),
        ),
        NET.init(KEY, X),
    ),
    "implicit, bfloat16": _bfloat16(lambda: gt.implicit(optax.adam(1e-2), NET, LOSS)),
}
"""By name, a function that makes the optimizer; the first word is a public name."""


@functools.cache
def make_run(name: str) -> OptimizerRun:
    """An optimizer that is ready to train."""
    case = CASES[name]()

    @jax.jit
    def step(params: Tree, state: Tree, number: jax.Array) -> tuple[Tree, Tree]:
        x = X + 0.1 * number
        options: Any = {"rngs": {"dropout": jax.random.fold_in(KEY, number)}} if case.rngs else {}
        inputs = (x, state.aux) if case.has_statistics else x
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, state = case.tx.update(zeros, state, params, batch=(inputs, LABELS), **options)
        return optax.apply_updates(params, updates), state

    return OptimizerRun(step, lambda: case.tx.init(case.params), case.params)


@functools.cache
def saved_run(name: str) -> SavedRun:
    """A run of an optimizer, with the state from which restored runs continue."""
    run = make_run(name)
    reached = [(run.params, run.init())]
    for number in range(5):
        reached.append(run.step(*reached[-1], jnp.asarray(number)))
    return SavedRun(run.step, run.init, *reached[2], reached[-1])
