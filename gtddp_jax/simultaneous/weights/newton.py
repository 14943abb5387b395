"""`newton`: the system of B equations itself (DESIGN §4, "the implicit game").

    w = psi'(s(w)),   s(w) = G u(q(w)),   q(w) = (1/B) sum_i w_i G_i

For a base method that is affine in the gradient this is `s = s0 - (1/B) N w`. Each step solves
`(I + D M) delta = -(w - psi'(s))` with D = diag psi''(s), M = -ds/dw, and is halved until the
residual falls.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import PerSample
from gtddp_jax.simultaneous.weights.base import (
    Context,
    Prediction,
    State,
    WeightModel,
    whole_network,
)
from gtddp_jax.terminal.solve import clip

FORMS = ("gram", "matrix_free")
Product = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class newton(WeightModel):  # noqa: N801  (a constructor)
    """Damped Newton steps on the B x B system; for small batches and for analysis.

    Args:
        steps: number of Newton steps.
        form: "gram" forms M by B directional derivatives and solves densely (one device only);
            "matrix_free" runs conjugate gradients.
        inner: conjugate-gradient steps of the matrix-free form.
        halvings: how often a step may be halved.

    Raises:
        ValueError: unknown form, or a count below 1.

    Example:
        >>> import gtddp_jax as gt
        >>> weights = gt.weights.newton(steps=6)
    """

    steps: int = 6
    form: str = "gram"
    inner: int = 20
    halvings: int = 6

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"Invalid form: {self.form!r}. Supported: {FORMS}.")
        if min(self.steps, self.inner) < 1 or self.halvings < 0:
            raise ValueError(f"weights.{self}: steps and inner must be >= 1, halvings >= 0.")

    def weights(self, context: Context, state: State) -> tuple[PerSample, State, Prediction]:
        """See `WeightModel`."""
        model, base = context.model, context.base
        if self.form == "gram" and model.samples.axis_name is not None:
            raise ValueError(
                "weights.newton(form='gram') needs all samples on one device; with axis_name use "
                "form='matrix_free'."
            )
        _, push = model.part(lambda tree: tree)
        rest, _ = base.split(model.gradient(model.ones))
        drift = push(rest)
        offset = jnp.zeros_like(drift) if base.drift else -drift

        def shift(w: jax.Array) -> jax.Array:
            return push(base.step(model.gradient(w))[0]) + offset

        def dot(a: jax.Array, b: jax.Array) -> jax.Array:
            return model.samples.total(a @ b)

        def residual(w: jax.Array) -> tuple[jax.Array, jax.Array, Product]:
            q = model.gradient(w)

            def m(v: jax.Array) -> jax.Array:
                along = jax.jvp(lambda q: base.step(q)[0], (q,), (model.gradient(v),))[1]
                # The root of a zero second moment has no derivative: such weights do not move.
                return -push(jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), along))

            slope, bend = model.expansion.slope_and_bend(shift(w))
            return w - slope, jnp.maximum(bend, 0), m

        def improve(w: jax.Array, _: Any) -> tuple[jax.Array, None]:
            r, bend, m = residual(w)
            if self.form == "gram":
                identity = jnp.eye(w.size, dtype=w.dtype)
                matrix = jax.vmap(m, out_axes=1)(identity)
                delta = jnp.linalg.solve(identity + bend[:, None] * matrix, -r)
            else:
                delta = -_solve_symmetric(bend, m, r, dot, self.inner)
            size = dot(r, r)

            def shorter(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                return 0.5 * carry[0], carry[1] + 1

            def worse(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
                new = w + carry[0] * delta
                missed = new - model.expansion.slope(shift(new))
                return (carry[1] < self.halvings) & ~(dot(missed, missed) <= size)

            whole = jnp.ones((), w.dtype)
            length, _ = jax.lax.while_loop(worse, shorter, (whole, jnp.zeros((), int)))
            return w + length * delta, None

        w, _ = jax.lax.scan(improve, model.ones, None, length=self.steps)
        return clip(w, context.bounds), state, whole_network()


def _solve_symmetric(
    bend: jax.Array,
    m: Product,
    b: jax.Array,
    dot: Callable[[jax.Array, jax.Array], jax.Array],
    steps: int,
) -> jax.Array:
    """`(I + D M)^-1 b` for symmetric M: `b - R y` with R = sqrt(D), `(I + R M R) y = R M b`."""
    root = jnp.sqrt(bend)

    def apply(y: jax.Array) -> jax.Array:
        return y + root * m(root * y)

    right = root * m(b)

    def improve(carry: tuple[jax.Array, ...], _: Any) -> tuple[tuple[jax.Array, ...], None]:
        y, r, p, square = carry
        image = apply(p)
        curvature = dot(p, image)
        length = jnp.where(curvature > 0, square / jnp.where(curvature > 0, curvature, 1), 0)
        y, r = y + length * p, r - length * image
        new = dot(r, r)
        p = r + jnp.where(square > 0, new / jnp.where(square > 0, square, 1), 0) * p
        return (y, r, p, new), None

    start = (jnp.zeros_like(b), right, right, dot(right, right))
    (y, *_), _ = jax.lax.scan(improve, start, None, length=steps)
    return b - root * y
