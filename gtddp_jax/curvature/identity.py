"""GT-DDP-SGD: Q_uu = (1/eta) I (DESIGN §5, Table 1; paper Eq. 2)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from gtddp_jax.core.types import Number, Rate, Tree
from gtddp_jax.curvature.base import State
from gtddp_jax.curvature.diagonal import DiagonalCurvature, check_rate, rate_now


@dataclasses.dataclass(frozen=True)
class identity(DiagonalCurvature):  # noqa: N801  (a constructor, named as optax names its own)
    """`P = eta I`. With feedback off: `optax.sgd`.

    Args:
        learning_rate: eta, a number or an optax schedule.
        momentum: decay of the momentum in the open gain, or None.
        nesterov: whether the momentum is Nesterov's.
        accumulator_dtype: dtype of the momentum, or None.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.identity(1e-2, momentum=0.9)
    """

    learning_rate: Rate
    momentum: Number | None = None
    nesterov: bool = False
    accumulator_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        check_rate("curvature.identity", self.learning_rate)

    @property
    def base(self) -> optax.GradientTransformationExtraArgs:
        """See `DiagonalCurvature`."""
        trace = (
            optax.identity()
            if self.momentum is None
            else optax.trace(self.momentum, self.nesterov, self.accumulator_dtype)
        )
        return optax.chain(trace, optax.scale_by_learning_rate(self.learning_rate))

    def rate(self, state: State) -> Number:
        """See `DiagonalCurvature`."""
        return rate_now(self.learning_rate, state[1])

    def diagonal(self, state: State, rate: Number, params: Tree) -> Tree:
        """See `DiagonalCurvature`."""
        del state
        return jax.tree.map(lambda p: jnp.asarray(rate, p.dtype), params)
