"""GT-DDP-SGD: Q_uu = (1/eta) I (paper Table 1 and Eq. 2)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from typing_extensions import override

from gtddp_jax.core.types import Number, PlayerTrees, Rate
from gtddp_jax.curvature.diagonal import ChainState, DiagonalCurvature, check_statistics
from gtddp_jax.curvature.learning_rate import check_learning_rate, schedule_count, schedule_value


@dataclasses.dataclass(frozen=True)
class SGD(DiagonalCurvature):
    """Gradient descent: `P = eta I`. Without feedback it is `optax.sgd`.

    Args:
        learning_rate: eta, a number or an optax schedule.
        momentum: decay of the momentum in the open gain, or None.
        nesterov: whether to use Nesterov momentum.
        accumulator_dtype: dtype of the momentum, or None for that of the parameters.
        statistics: "closed" makes second moments and momentum from the closed gradient, "open"
            from the open one, as the paper's Table 1 does. Keyword only.

    Raises:
        ValueError: `learning_rate` is negative or `statistics` is unknown.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.SGD(1e-2, momentum=0.9)
    """

    learning_rate: Rate
    momentum: Number | None = None
    nesterov: bool = False
    accumulator_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        check_learning_rate("curvature.SGD", self.learning_rate)
        check_statistics("curvature.SGD", self.statistics)

    @property
    @override
    def optax_chain(self) -> optax.GradientTransformationExtraArgs:
        trace = (
            optax.identity()
            if self.momentum is None
            else optax.trace(self.momentum, self.nesterov, self.accumulator_dtype)
        )
        # Momentum before the learning rate, as in `optax.sgd`.
        return optax.chain(trace, optax.scale_by_learning_rate(self.learning_rate))

    @override
    def current_learning_rate(self, chain_state: ChainState) -> Number:
        # `scale_by_learning_rate` comes second in the chain.
        return schedule_value(self.learning_rate, schedule_count(chain_state[1]))

    @override
    def preconditioner_diagonal(
        self, chain_state: ChainState, learning_rate: Number, params: PlayerTrees
    ) -> PlayerTrees:
        del chain_state
        # One number per array: the quadratic form then needs only squared norms.
        return jax.tree.map(lambda leaf: jnp.asarray(learning_rate, leaf.dtype), params)
