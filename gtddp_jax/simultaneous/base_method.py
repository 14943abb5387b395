"""The base optimizer as a function of the gradient, u(q), at its present state."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.safety import choose
from gtddp_jax.core.samples import spread, varying
from gtddp_jax.core.types import Tree


@dataclasses.dataclass(frozen=True)
class BaseMethod:
    """u(q): the update that the base would make for the gradient q. Its state does not advance.

    Attributes:
        base: the optax transformation.
        state: its state before the step.
        params: the parameters.
        running: the gradient of the running cost, added to every q.
        extra: further keyword arguments of `update`, passed on.
        drift: whether the base moves without a new gradient (u(0): momentum, weight decay) as far
            as the prediction is concerned.
    """

    base: optax.GradientTransformationExtraArgs
    state: Any
    params: Tree
    running: Tree
    extra: dict[str, Any]
    drift: bool

    def total(self, q: Tree) -> Tree:
        """What the base sees: q and the gradient of the running cost."""
        return jax.tree.map(lambda g, cost: g + cost.astype(g.dtype), q, self.running)

    def step(self, q: Tree) -> tuple[Tree, Any]:
        """The update for q and the base's next state."""
        return self.base.update(self.total(q), self.state, self.params, **self.extra)

    def split(self, q: Tree) -> tuple[Tree, Tree]:
        """u(q) as `(u(0), u(q) - u(0))`: drift and response."""
        moved, _ = self.step(q)
        rest, _ = self.step(jax.tree.map(jnp.zeros_like, q))
        return finished(rest), finished(optax.tree.sub(moved, rest))

    def state_after(self, ok: jax.Array, q: Tree) -> Any:
        """The state after a step for q where `ok`, elsewhere the present one.

        `ok` is known when the whole step is. A new state that waits for it is written, read and
        written again; one that is made then is written once, so it is made a second time where that
        takes nothing but a pass over its numbers.
        """
        if not elementwise(lambda q: self.step(q)[1], q):
            return choose(ok, self.step(q)[1], self.state)

        def later(x: jax.Array) -> jax.Array:
            return jax.lax.optimization_barrier((x, spread(ok, varying(x))))[0]

        return choose(ok, self.step(jax.tree.map(later, q))[1], self.state)


def finished(tree: Tree) -> Tree:
    """The same numbers, as arrays in memory.

    On CPUs, XLA would pull the arithmetic that makes an operand of a product into the product,
    where it is several times as slow. A selection stays outside.
    """

    def leaf(x: jax.Array) -> jax.Array:
        return jnp.where(jnp.isnan(x), jnp.nan, x).astype(x.dtype)

    return jax.tree.map(leaf, tree)


COUPLING = re.compile(
    r"dot_general|conv_.*|while|scan|cond|sort|.*top_k|fft|scatter.*|reduce.*|arg(max|min)|cum.*|"
    r"cholesky.*|eigh?|svd|qr|householder.*|lu.*|schur|tri(angular|diagonal).*|.*_solve|psum.*|all_.*"
)
"""Names of primitives that take more than one pass, or round differently in another program."""


def elementwise(fn: Callable[..., Any], *args: Any) -> bool:
    """Whether a function has no effects and none of the `COUPLING` primitives."""
    closed = jax.make_jaxpr(fn)(*args)
    return not closed.effects and not _couples(closed.jaxpr)


def _couples(jaxpr: Any) -> bool:
    return any(
        COUPLING.fullmatch(eqn.primitive.name) is not None
        or any(map(_couples, _inside(eqn.params.values())))
        for eqn in jaxpr.eqns
    )


def _inside(values: Iterable[Any]) -> list[Any]:
    """The programs among the parameters of an equation, alone or in sequences."""
    found = []
    for value in values:
        for item in value if isinstance(value, (tuple, list)) else (value,):
            body = getattr(item, "jaxpr", item)
            if hasattr(body, "eqns"):
                found.append(body)
    return found
