"""Every base method, terminal model and sample weighting of both games on one tiny network."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt

Tree = Any
BATCH = 4
NET = gt.Network([nn.Dense(3), jnp.tanh, gt.Residual([nn.Dense(3)]), nn.Dense(3)])
X = jnp.sin(jnp.arange(3.0 * BATCH).reshape(BATCH, 3))
LABELS = jnp.arange(BATCH) % 3
PARAMS = NET.init(jax.random.key(0), X)
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Half the squared distance to real targets [B, 3]."""
    return 0.5 * jnp.square(outputs - targets).sum(-1)


def _sequential(make: Callable[[float], gt.curvature.Curvature], **options: Any) -> Any:
    return lambda loss, rate: gt.gtddp(NET, loss, make(rate), **options)


def _implicit(make: Callable[[float], Any], weighting: str) -> Any:
    return lambda loss, rate: gt.implicit(make(rate), NET, loss, weighting=weighting)


c, t = gt.curvature, gt.terminal
GAMES: dict[str, tuple[float, Callable[[Loss, float], Any]]] = {
    "sgd": (0.5, _sequential(c.SGD)),
    "sgd, momentum, nonlinear": (
        0.1,
        _sequential(lambda rate: c.SGD(rate, 0.9), rollout="nonlinear"),
    ),
    "sgd, gradient model": (0.5, _sequential(c.SGD, terminal=t.GradientHessian())),
    "sgd, projected model": (0.5, _sequential(c.SGD, terminal=t.ProjectedHessian())),
    "sgd, no bound, nonlinear": (
        0.5,
        _sequential(c.SGD, terminal=t.ExactLoss(None), rollout="nonlinear"),
    ),
    "sgd, no feedback": (0.5, _sequential(c.SGD, equilibrium="open_loop")),
    "rmsprop": (0.03, _sequential(c.RMSProp)),
    "adam": (0.03, _sequential(c.Adam)),
    "adamw": (0.03, _sequential(lambda rate: c.Adam(rate, weight_decay=0.1))),
    "lion": (0.01, _sequential(lambda rate: c.FromOptax(optax.lion(rate)))),
    "kfac": (0.3, _sequential(c.KFAC)),
    "kfac, factored": (0.3, _sequential(lambda rate: c.KFAC(rate, damping_form="factored"))),
    "ekfac": (0.3, _sequential(c.EKFAC)),
    "ekfac, per example": (0.3, _sequential(lambda rate: c.EKFAC(rate, mode="per_example"))),
    "soap": (0.03, _sequential(c.SOAP)),
    "sketch, momentum": (0.1, _implicit(lambda rate: optax.sgd(rate, 0.9), "sketch")),
    "full, adam": (0.03, _implicit(optax.adam, "full")),
    "exact, rmsprop": (0.03, _implicit(optax.rmsprop, "exact")),
}
"""By name, the largest learning rate (a power of ten times one or three) at which a game trains,
and a function of loss and rate that builds the game."""


def step_of(tx: Any) -> Callable[..., Any]:
    """`(params, state, batch) -> updates, state`, compiled."""

    def step(params: Tree, state: Any, batch: Any) -> tuple[Tree, Any]:
        return tx.update(None, state, params, batch=batch)

    return jax.jit(step)


def finite(tree: Tree) -> bool:
    """Whether all floating-point numbers of a tree are finite."""
    leaves = [v for v in jax.tree.leaves(tree) if jnp.issubdtype(v.dtype, jnp.floating)]
    return all(bool(jnp.isfinite(v).all()) for v in leaves)
