"""`trial`: make the base step, look at the real new outputs, weigh by the slope there (DESIGN §4).

Unbounded, the slopes mislead at large rates, so the outputs are followed only up to a radius, which
a trust-region rule adapts: it compares the real change of the batch's loss with the change that
the first-order model predicted.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.trees import inner, per_sample, vdot, wide
from gtddp_jax.core.types import PerSample, Tree
from gtddp_jax.simultaneous.weights.base import (
    Context,
    Prediction,
    State,
    WeightModel,
    whole_network,
)
from gtddp_jax.terminal.solve import clip


@dataclasses.dataclass(frozen=True)
class trial(WeightModel):  # noqa: N801  (a constructor)
    """`w_i = g_i . grad phi_i(x_i + t_i dx_i) / |g_i|^2`, dx the change by the base's own step.

    `t_i <= 1` keeps the shift of the outputs within the radius.

    Args:
        radius: first radius, in output units; None follows the outputs all the way (the plain form
            of DESIGN §4, unstable at large rates).
        shrink: factor on the radius after a step whose real decrease is below `poor` of the
            predicted one.
        grow: factor after a step whose real decrease is above `good` of the predicted one.
        poor: see `shrink`.
        good: see `grow`.
        least: the radius does not fall below this.
        most: the radius does not rise above this.

    Raises:
        ValueError: a factor or bound out of its range.

    Example:
        >>> import gtddp_jax as gt
        >>> weights = gt.weights.trial(radius=1.0)
    """

    radius: float | None = 1.0
    shrink: float = 0.7
    grow: float = 1.1
    poor: float = 0.25
    good: float = 0.5
    least: float = 1e-3
    most: float = 100.0

    def __post_init__(self) -> None:
        fine = 0 < self.shrink < 1 <= self.grow and 0 < self.least <= self.most
        if not fine or (self.radius is not None and self.radius <= 0):
            raise ValueError(
                f"weights.{self}: radius and least must be > 0, 0 < shrink < 1 <= grow."
            )

    def init(self, params: Tree) -> State:
        """See `WeightModel`."""
        del params
        return () if self.radius is None else jnp.asarray(self.radius, jnp.float32)

    def weights(self, context: Context, state: State) -> tuple[PerSample, State, Prediction]:
        """See `WeightModel`."""
        model, base, line = context.model, context.base, context.model.expansion.line
        q = model.gradient(None)
        step, _ = base.step(q)
        new = model.outputs(optax.apply_updates(base.params, step))
        shift = jax.tree.map(lambda a, b: wide(a) - wide(b), new, line.outputs)
        if self.radius is not None:
            size = jnp.sqrt(inner(shift, shift))
            short = jnp.minimum(1.0, state / jnp.where(size > 0, size, 1.0))
            reached = jax.tree.map(lambda s: per_sample(short, s) * s, shift)
        else:
            reached = shift
        there = jax.tree.map(lambda x, s: wide(x) + s, line.outputs, reached)
        _, slope = jax.jvp(context.loss, (there,), (line.direction,))
        w = clip(jnp.where(line.alive, slope, 1.0), context.bounds)
        report = whole_network()
        if self.radius is None:
            return w, state, report
        predicted = vdot(q, step)
        actual = model.samples.mean(context.loss(new) - line.value)
        kept = jnp.where(predicted < 0, actual / jnp.where(predicted < 0, predicted, 1), 1.0)
        factor = jnp.where(kept > self.good, self.grow, 1.0)
        factor = jnp.where(kept > self.poor, factor, self.shrink)
        radius = jnp.clip(state * factor, self.least, self.most).astype(state.dtype)
        return w, radius, report._replace(radius=state)
