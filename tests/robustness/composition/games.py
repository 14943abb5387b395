"""Both games on one small problem, with their parameters and batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt
from tests.implicit import models

Tree = Any
PROBLEM = models.classification
NET = gt.Network([nn.Dense(4, param_dtype=float), jnp.tanh, nn.Dense(3, param_dtype=float)])


class Game(NamedTuple):
    """A game as a function of its base."""

    name: str
    build: Callable[..., Any]
    params: Callable[[], Tree]


def _implicit(base: Any, **options: Any) -> Any:
    return gt.implicit(base, models.mlp, models.cross_entropy, weighting=FULL, **options)


def _sequential(base: Any, **options: Any) -> Any:
    return gt.gtddp(NET, models.cross_entropy, gt.curvature.FromOptax(base), **options)


FULL = gt.weighting.Full(factors="implicit")
"""The whole network, by the formula of `tests/implicit/dense.py`."""

GAMES = (
    Game("implicit", _implicit, models.mlp_params),
    Game("gtddp", _sequential, lambda: NET.init(jax.random.key(0), jnp.ones((1, 3)))),
)


def batch(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Five samples with their labels."""
    problem = PROBLEM(seed=seed)
    return problem.x, problem.y


def zeros(params: Tree) -> Tree:
    """The gradient of no running cost."""
    return jax.tree.map(jnp.zeros_like, params)


def try_update(tx: Any, params: Tree, updates: Tree = None, **arguments: Any) -> None:
    """Traces `init` and one `update`."""

    def both() -> Any:
        return tx.update(updates, tx.init(params), params, **({"batch": batch()} | arguments))

    jax.eval_shape(both)


def first_layer(params: Tree) -> Tree:
    """A mask of the first layer, for all parameters or for those of a stage."""
    return {name: name in ("hidden", "Dense_0") for name in params}


FROZEN = optax.masked(optax.set_to_zero(), first_layer)
