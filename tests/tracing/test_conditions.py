"""A comparison of parameters has no gradient, but steers what follows."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt

X = np.array([[0.5, -1.0, 2.0], [1.5, 3.0, -0.5], [-1.0, 0.2, 0.4]])
Y = np.array([0, 1, 1])


class Branching(nn.Module):
    """Doubles the hidden values if the sum of a parameter is positive, or applies a factor."""

    factor: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.param("w", nn.initializers.normal(), (3, 4), np.float64)
        h = jnp.tanh(x @ w)
        if self.factor is None:
            h = jax.lax.cond(w.sum() > 0, lambda h: 2.0 * h, lambda h: h, h)
        else:
            h = self.factor * h
        return nn.Dense(2, param_dtype=np.float64)(h)


def test_a_branch_by_a_parameter() -> None:
    """The step is that of the model with the branch that is taken."""
    params: Any = Branching().init(jax.random.key(0), X)["params"]
    loss: Any = optax.softmax_cross_entropy_with_integer_labels

    def step(factor: float | None, params: Any) -> Any:
        tx: Any = gt.sgd(gt.from_flax(Branching(factor), X), loss, 0.5)
        return tx.update(None, tx.init(params), params, batch=(X, Y))[0]

    @jax.jit
    def steps(params: Any) -> Any:
        return [step(factor, params) for factor in (None, 1.0, 2.0)]

    for shift, taken in ((-1.0, 1), (1.0, 2)):
        updates = steps({**params, "w": params["w"] + shift})
        chex.assert_trees_all_close(updates[0], updates[taken], rtol=1e-11)
