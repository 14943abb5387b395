"""One batch, and functions of losses on it for every game."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt

Tree = Any
SAMPLES = 6
TOKENS = 4
RATE = 0.05
cross_entropy: Any = optax.softmax_cross_entropy_with_integer_labels


class Batch(NamedTuple):
    """Inputs [B, 3] and labels [B]; or tokens [B, T, 3] and [B, T]."""

    x: Any
    y: Any
    mask: Any = None

    def rows(self, index: Any) -> "Batch":
        return Batch(self.x[index], self.y[index])


def make_batch(*shape: int) -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        jnp.asarray(2 * rng.normal(size=(*shape, 3))), jnp.asarray(rng.integers(0, 3, shape))
    )


ROWS, SEQUENCES = make_batch(SAMPLES), make_batch(SAMPLES, TOKENS)
MASK = np.array([True, True, False, True, False, True])

NET = gt.Network(
    [nn.Dense(4, param_dtype=np.float64), jnp.tanh, nn.Dense(3, param_dtype=np.float64)]
)


class LinenModel(nn.Module):
    """The same network as a Flax module."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = jnp.tanh(nn.Dense(4, param_dtype=np.float64)(x))
        return nn.Dense(3, param_dtype=np.float64)(h)


def l2(params: Tree) -> jax.Array:
    return 0.01 * optax.tree.norm(params, squared=True)


def losses_of(
    apply: Callable[..., Any], *, regularized: bool = True
) -> Callable[[Tree, Batch], gt.Losses]:
    """A function of losses that runs a model by `apply(params, x)`."""

    def losses(params: Tree, batch: Batch) -> gt.Losses:
        logits = apply(params, batch.x)
        return gt.Losses(
            outputs=logits,
            per_sample=lambda logits: cross_entropy(logits, batch.y),
            mask=batch.mask,
            regularizer=l2(params) if regularized else 0.0,
            aux={"logits": logits, "correct": (logits.argmax(-1) == batch.y).sum()},
        )

    return losses


def apply_net(params: Tree, x: jax.Array) -> Any:
    return NET.apply(params, x, train=True)


def net_params() -> Tree:
    return NET.init(jax.random.key(0), ROWS.x)


def after_step(tx: Any, losses: Any, params: Tree, *args: Any) -> tuple[Tree, Any]:
    """The parameters and the output after one step."""
    step = gt.make_step(tx, losses, donate=False)
    new_params, _, output = step(params, tx.init(params), *args)
    return new_params, output
