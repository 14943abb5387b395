"""The implicit game by formula: flat vectors, dense matrices, one sample at a time.

| symbol | meaning                                                | here            |
|--------|--------------------------------------------------------|-----------------|
| G      | gradient of each sample's loss by all parameters       | `big_g` [B, m]  |
| u(q)   | the base's update for a gradient q                     | `Base(q)` [m]   |
| psi'   | derivative of a loss along its output gradient         | `derivative(i, s)` |

The formulas are those of docs/mathematics_games.md, "The implicit game". Nothing of the library
is used.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy import optimize

Tree = Any
Vector = np.ndarray


class Problem(NamedTuple):
    """A model and one batch."""

    apply_fn: Callable[[Tree, Any], Any]
    loss: Callable[[Any, Any], jax.Array]
    params: Tree
    x: jax.Array
    y: jax.Array


class Losses:
    """The losses of one batch at its parameters."""

    def __init__(self, p: Problem, max_shift: float | None = None) -> None:
        flat, self.unravel = ravel_pytree(p.params)
        self.batch, self.max_shift, self.p = p.x.shape[0], max_shift, p

        def losses(u: jax.Array) -> tuple[jax.Array, jax.Array]:
            outputs = p.apply_fn(self.unravel(u), p.x)
            return p.loss(outputs, p.y), outputs

        jacobian, outputs = jax.jit(jax.jacrev(losses, has_aux=True))(flat)
        self.big_g, self.outputs = np.asarray(jacobian), np.asarray(outputs)
        self._gradient = jax.jit(jax.grad(lambda o, y: p.loss(o[None], y[None])[0]))
        self.g = [self.gradient(i, self.outputs[i]) for i in range(self.batch)]

    def gradient(self, i: int, outputs: Any) -> Vector:
        """The gradient of sample i's loss by its own outputs."""
        return np.asarray(self._gradient(jnp.asarray(outputs), self.p.y[i]))

    def derivative(self, i: int, s: float) -> float:
        """psi'_i(s) of the true loss, with the shift of the outputs bounded by `max_shift`."""
        g = self.g[i]
        square = (g * g).sum()
        if self.max_shift is not None:
            s = np.clip(s, -self.max_shift * np.sqrt(square), self.max_shift * np.sqrt(square))
        return float((g * self.gradient(i, self.outputs[i] + s * g / square)).sum() / square)

    def derivatives(self, s: Vector) -> Vector:
        """psi'_i(s_i) of every sample."""
        return np.array([self.derivative(i, s[i]) for i in range(self.batch)])

    def mean_gradient(self, w: Vector | float = 1.0) -> Vector:
        """q(w) = (1/B) sum_i w_i G_i."""
        return (np.broadcast_to(w, self.batch) @ self.big_g) / self.batch

    def scalar_weight(
        self, i: int, s0: float, n: float, bounds: tuple[float, float] | None
    ) -> float:
        """For n >= 0 the root of `w = psi'(s0 - n w)`, or the bound beyond which it lies.

        For n < 0, `psi'(s0 - n)` within the bounds.
        """
        low, high = (-1e4, 1e4) if bounds is None else bounds
        if n < 0:
            return float(np.clip(self.derivative(i, s0 - n), low, high))

        def residual(w: float) -> float:
            return w - self.derivative(i, s0 - n * w)

        if residual(low) >= 0:
            return low
        if residual(high) <= 0:
            return high
        found: Any = optimize.brentq(residual, low, high, xtol=1e-14, rtol=np.float64(1e-14))
        return found

    def scalar_weights(
        self, s0: Vector, n: Vector, bounds: tuple[float, float] | None = None
    ) -> Vector:
        """`scalar_weight` of every sample."""
        return np.array([self.scalar_weight(i, s0[i], n[i], bounds) for i in range(self.batch)])


class Base:
    """u(q) on flat vectors, for a base optimizer at a fixed state."""

    def __init__(self, tx: optax.GradientTransformation, state: Any, params: Tree) -> None:
        _, unravel = ravel_pytree(params)
        self._step = jax.jit(lambda q: ravel_pytree(tx.update(unravel(q), state, params)[0])[0])

    def __call__(self, q: Vector) -> Vector:
        return np.asarray(self._step(jnp.asarray(q)))

    def split(self, q: Vector) -> tuple[Vector, Vector]:
        """The momentum step u(0) and the gradient response u(q) - u(0)."""
        momentum_step = self(np.zeros_like(q))
        return momentum_step, self(q) - momentum_step


def influence(losses: Losses, base: Base, only: Vector | None = None) -> tuple[Vector, Vector]:
    """`s0 = G u(0)` and `n = -G (u(q) - u(0))`; with a mask `only` [m], of these parameters."""
    mask = np.ones(losses.big_g.shape[1]) if only is None else only
    momentum_step, response = base.split(mask * losses.mean_gradient())
    return losses.big_g @ (mask * momentum_step), -losses.big_g @ (mask * response)


def system_weights(losses: Losses, base: Base, *, predict_momentum: bool = True) -> Vector:
    """The root of the B equations `w = psi'(G u(q(w)))`, by scipy."""
    offset = 0.0 if predict_momentum else losses.big_g @ base(np.zeros(losses.big_g.shape[1]))

    def residual(w: Vector) -> Vector:
        return w - losses.derivatives(losses.big_g @ base(losses.mean_gradient(w)) - offset)

    found = optimize.root(residual, np.ones(losses.batch), tol=1e-15)
    assert np.abs(residual(found.x)).max() < 1e-12, found
    return found.x
