"""Games on tiny networks, and one batch in two forms: with padding, and its real samples alone."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt

Tree = Any
Loss = Callable[[Any, Any], jax.Array]
Build = Callable[..., Any]
"""From a network, a loss and perhaps `axis_name` to a transformation."""

BATCH, REAL = 9, np.array([0, 2, 3, 5, 8])
KEEP = np.isin(np.arange(BATCH), REAL)
_GENERATOR = np.random.default_rng(0)
IMAGES = _GENERATOR.normal(size=(BATCH, 3, 2))
LABELS = _GENERATOR.integers(0, 3, BATCH)


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)


def masked_cross_entropy(outputs: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Losses whose mean over the batch is the mean over the samples in the mask."""
    labels, mask = targets
    scale = mask.shape[0] / jnp.maximum(mask.sum(), 1)
    return jnp.where(mask, cross_entropy(outputs, labels), 0.0) * scale


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


_PAIR = gt.Cooperative([nn.Dense(3), nn.Dense(3)])
DENSE = gt.Network([_flatten, _PAIR, jnp.tanh, nn.Dense(3)])
CONVOLUTION = gt.Network([nn.Conv(3, (2,)), jnp.tanh, _flatten, nn.Dense(3)])


class Game(NamedTuple):
    """A game, the network that it is played on, and the base of an implicit game."""

    build: Build
    net: gt.Network = DENSE
    base: Any = None


def _implicit(base: Any, weighting: Any, **options: Any) -> Game:
    def build(net: gt.Network, loss: Loss, **more: Any) -> Any:
        return gt.implicit(base, net, loss, weighting=weighting, **options, **more)

    return Game(build, base=base)


def _kronecker(make: Any, net: gt.Network = DENSE, **options: Any) -> Game:
    common = {"learning_rate": 0.1, "damping": 0.1, "momentum": 0.5}
    return Game(lambda net, loss, **more: make(net, loss, **common | options | more), net)


MOMENTUM = optax.sgd(0.3, momentum=0.9)
GRADIENT_MODEL = gt.terminal.GradientHessian()

IMPLICIT = {
    "sketch": _implicit(MOMENTUM, "sketch"),
    "full": _implicit(optax.adamw(0.05), "full"),
    "full, gradient model": _implicit(MOMENTUM, "full", terminal=GRADIENT_MODEL),
    "exact, matrix free": _implicit(
        optax.rmsprop(0.02), gt.weighting.Exact(2, "matrix_free", solver_steps=4)
    ),
}
SEQUENTIAL = {
    "sgd, nonlinear": Game(
        lambda net, loss: gt.sgd(net, loss, 0.3, momentum=0.5, rollout="nonlinear")
    ),
    "adam, self-response": Game(lambda net, loss: gt.adam(net, loss, 0.05, self_response=True)),
    "lion": Game(lambda net, loss: gt.gtddp(net, loss, gt.curvature.FromOptax(optax.lion(0.01)))),
    "sgd, gradient model": Game(
        lambda net, loss, **more: gt.sgd(net, loss, 0.1, terminal=GRADIENT_MODEL, **more)
    ),
}
_EVERY_STEP: dict[str, Any] = {"factors_every": 1, "refresh_every": 1}
KRONECKER = {
    "kfac": _kronecker(gt.kfac, refresh_every=2, stagger=False),
    "kfac, joint": _kronecker(gt.kfac, damping_form="factored", cooperative="joint", **_EVERY_STEP),
    "kfac, reduce": _kronecker(gt.kfac, CONVOLUTION, positions="reduce", **_EVERY_STEP),
    "kfac, window": _kronecker(gt.kfac, full_limit=2, window_rows=BATCH + 2, **_EVERY_STEP),
    "ekfac": _kronecker(gt.ekfac, CONVOLUTION, **_EVERY_STEP),
    "ekfac, per example": _kronecker(gt.ekfac, mode="per_example", **_EVERY_STEP),
}
GAMES = IMPLICIT | SEQUENTIAL | KRONECKER


@functools.cache
def initial_params(net: gt.Network) -> Tree:
    """Parameters in float64."""
    params = net.init(jax.random.key(0), jnp.asarray(IMAGES))
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)


class Player:
    """A game step by step, from the initial parameters."""

    def __init__(self, game: Game, loss: Loss) -> None:
        self.game, self.tx = game, game.build(game.net, loss)
        self.params = initial_params(game.net)
        self.state = self.tx.init(self.params)

        def step(params: Tree, state: Any, batch: Any) -> tuple[Tree, Any]:
            return self.tx.update(None, state, params, batch=batch)

        self._step = jax.jit(step)

    def step(self, x: Any, targets: Any) -> Tree:
        """Takes the step and returns its updates."""
        batch = jax.tree.map(jnp.asarray, (x, targets))
        updates, self.state = self._step(self.params, self.state, batch)
        self.params = optax.apply_updates(self.params, updates)
        return updates
