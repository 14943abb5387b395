"""`Exact`: the weights as the solution of the system of B equations.

    w = psi'(s(w)),   s(w) = G u(q(w)),   q(w) = (1/B) sum_i w_i G_i

| symbol | meaning                                                      | shape  |
|--------|--------------------------------------------------------------|--------|
| r      | residual w - psi'(s(w))                                      | [B]    |
| M      | -ds/dw; N / B for a base that is affine in the gradient      | [B, B] |
| D      | diag psi''(s), at least 0                                    | [B, B] |

Each iteration solves `(I + D M) delta = -r` and halves delta until the residual shrinks. Derived in
docs/mathematics_games.md, "The implicit game".
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.explicit_sharding import explicit_mesh, replicate, reshard_like
from gtddp_jax.core.types import PerSample, Scalar
from gtddp_jax.implicit.weighting.base import (
    SampleWeighting,
    WeightingContext,
    WeightPrediction,
)
from gtddp_jax.terminal.scalar_equation import clip_sample_weights

FORMS = ("gram", "matrix_free")

SampleMap: TypeAlias = Callable[[PerSample], PerSample]
"""A linear map on sample vectors [B]."""

SampleDot: TypeAlias = Callable[[PerSample, PerSample], Scalar]


class Linearization(NamedTuple):
    """The system of equations at weights w.

    Attributes:
        residual: r [B].
        second_derivative: the diagonal of D [B].
        apply_m: v -> M v.
    """

    residual: PerSample
    second_derivative: PerSample
    apply_m: SampleMap


class WeightSystem:
    """The equations `w = psi'(s(w))` of one batch."""

    def __init__(self, context: WeightingContext) -> None:
        self._losses, self._base = context.losses, context.base
        q, self._jvp_fn = self._losses.linearize_gradient()
        step_parts = self._base.split_update(q)
        momentum_shift = self._jvp_fn(step_parts.momentum_step)
        # s(w) contains the momentum step; without prediction of it, it is subtracted again.
        predict_momentum = self._base.predict_momentum
        self._offset = jnp.zeros_like(momentum_shift) if predict_momentum else -momentum_shift

    def sample_dot(self, a: PerSample, b: PerSample) -> Scalar:
        """The inner product over all samples, other devices' included."""
        return self._losses.samples.sum_over_devices((a * b).sum())

    def loss_shift(self, w: PerSample) -> PerSample:
        """s(w) [B]."""
        step = self._base.predict_update(self._losses.weighted_gradient(w))
        return self._jvp_fn(step) + self._offset

    def residual(self, w: PerSample) -> PerSample:
        """r(w) = w - psi'(s(w)) [B]."""
        return w - self._losses.expansion.derivative(self.loss_shift(w))

    def linearize_at(self, w: PerSample) -> Linearization:
        """Return the residual at w and its derivative I + D M, in parts."""
        q = self._losses.weighted_gradient(w)

        def apply_m(v: PerSample) -> PerSample:
            change = self._losses.weighted_gradient(v)
            _, step_change = jax.jvp(self._base.predict_update, (q,), (change,))
            # The square root of a zero second moment (Adam) has no derivative: parameters whose
            # gradient has always been zero do not move.
            return -self._jvp_fn(
                jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), step_change)
            )

        derivative, second_derivative = self._losses.expansion.first_two_derivatives(
            self.loss_shift(w)
        )
        # Negative curvature counts as zero, so that I + D M stays invertible for M >= 0.
        return Linearization(w - derivative, jnp.maximum(second_derivative, 0), apply_m)


@dataclasses.dataclass(frozen=True)
class Exact(SampleWeighting):
    """The weights of all samples together, for small batches and for analysis.

    Damped Newton iterations solve the B equations `w = psi'(s(w))`.

    Args:
        steps: number of Newton iterations.
        form: "gram" builds M from B directional derivatives and solves densely (one device only);
            "matrix_free" solves by conjugate gradients.
        solver_steps: conjugate-gradient steps per iteration of the matrix-free form.
        halvings: how often an iteration may halve its step.

    Raises:
        ValueError: `form` is unknown or a count is too small.

    Example:
        >>> import gtddp_jax as gt
        >>> weighting = gt.weighting.Exact(steps=6)
    """

    steps: int = 6
    form: str = "gram"
    solver_steps: int = 20
    halvings: int = 6

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"Invalid form: {self.form!r}. Supported: {FORMS}.")
        if min(self.steps, self.solver_steps) < 1 or self.halvings < 0:
            raise ValueError(
                f"weighting.{self}: steps and solver_steps must be >= 1, halvings >= 0."
            )

    @override
    def predict_weights(self, context: WeightingContext) -> WeightPrediction:
        if self.form == "gram" and context.losses.samples.axis_name is not None:
            raise ValueError(
                "weighting.Exact(form='gram') needs all samples on one device; with axis_name "
                "use form='matrix_free'."
            )
        system = WeightSystem(context)
        start = context.losses.uniform_weights
        w, _ = jax.lax.scan(
            lambda w, _: (self._newton_step(system, w), None), start, None, length=self.steps
        )
        return WeightPrediction(clip_sample_weights(w, context.bounds), system.loss_shift)

    def _newton_step(self, system: WeightSystem, w: PerSample) -> PerSample:
        """One damped Newton iteration."""
        r, second_derivative, apply_m = system.linearize_at(w)
        if self.form == "gram":
            # Column j is M applied to the j-th unit vector. One after the other with axes of type
            # Explicit, because JAX cannot batch a convolution of spread samples.
            identity = jnp.eye(w.size, dtype=w.dtype)
            apply_to_rows = jax.vmap(apply_m) if explicit_mesh(w) is None else _one_by_one(apply_m)
            matrix = apply_to_rows(identity).T
            system_matrix = identity + second_derivative[:, None] * matrix
            delta = reshard_like(jnp.linalg.solve(replicate(system_matrix), -replicate(r)), r)
        else:
            delta = -_solve_symmetric(
                second_derivative, apply_m, r, system.sample_dot, self.solver_steps
            )
        residual_square = system.sample_dot(r, r)

        def halve_length(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            length, count = carry
            return 0.5 * length, count + 1

        def is_too_long(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
            length, count = carry
            new_residual = system.residual(w + length * delta)
            # Negated, so that a residual of NaN counts as too long.
            return (count < self.halvings) & ~(
                system.sample_dot(new_residual, new_residual) <= residual_square
            )

        full_length = jnp.ones((), w.dtype)
        length, _ = jax.lax.while_loop(is_too_long, halve_length, (full_length, jnp.zeros((), int)))
        return w + length * delta


def _one_by_one(apply: SampleMap) -> SampleMap:
    """The rows of a matrix, mapped in turn."""
    return lambda rows: jax.lax.map(apply, rows)


def _solve_symmetric(
    second_derivative: PerSample,
    apply_m: SampleMap,
    b: PerSample,
    sample_dot: SampleDot,
    steps: int,
) -> PerSample:
    """`(I + D M)^-1 b` for symmetric M: `b - R y` with R = sqrt(D), `(I + R M R) y = R M b`.

    The substitution makes the system symmetric, as conjugate gradients require.
    """
    root = jnp.sqrt(second_derivative)

    def apply_system(y: PerSample) -> PerSample:
        return y + root * apply_m(root * y)

    right_side = root * apply_m(b)

    def conjugate_gradient_step(
        carry: tuple[jax.Array, ...], _: None
    ) -> tuple[tuple[jax.Array, ...], None]:
        y, residual, direction, square = carry
        image = apply_system(direction)
        curvature = sample_dot(direction, image)
        # Zero curvature means a zero direction: the solution has been reached.
        length = jnp.where(curvature > 0, square / jnp.where(curvature > 0, curvature, 1), 0)
        y, residual = y + length * direction, residual - length * image
        new_square = sample_dot(residual, residual)
        keep = jnp.where(square > 0, new_square / jnp.where(square > 0, square, 1), 0)
        return (y, residual, residual + keep * direction, new_square), None

    start = (jnp.zeros_like(b), right_side, right_side, sample_dot(right_side, right_side))
    (y, *_), _ = jax.lax.scan(conjugate_gradient_step, start, None, length=steps)
    return b - root * y
