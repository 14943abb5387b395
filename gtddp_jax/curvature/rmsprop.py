"""GT-DDP-RMSprop: Q_uu = (1/eta) diag(sqrt(nu + eps)) (paper Table 1, which omits the root)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from typing_extensions import override

from gtddp_jax.core.types import Number, PlayerTrees, Rate
from gtddp_jax.curvature.diagonal import ChainState, DiagonalCurvature, check_statistics
from gtddp_jax.curvature.learning_rate import check_learning_rate, schedule_count, schedule_value


@dataclasses.dataclass(frozen=True)
class RMSProp(DiagonalCurvature):
    """RMSprop: `P = eta / sqrt(nu + eps)`, with nu a running mean of Q_u^2.

    Without feedback it is `optax.rmsprop`.

    Args:
        learning_rate: eta, a number or an optax schedule.
        decay: decay of nu.
        eps: added to nu.
        initial_scale: initial value of nu.
        eps_in_sqrt: whether `eps` is added under the root or to the root.
        momentum: decay of the momentum in the open gain, or None.
        nesterov: whether to use Nesterov momentum.
        bias_correction: whether to correct nu for its initial value.
        statistics: "closed" makes second moments and momentum from the closed gradient, "open"
            from the open one, as the paper's Table 1 does. Keyword only.

    Raises:
        ValueError: `learning_rate` is negative or `statistics` is unknown.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.RMSProp(1e-3)
    """

    learning_rate: Rate
    decay: Number = 0.9
    eps: Number = 1e-8
    initial_scale: Number = 0.0
    eps_in_sqrt: bool = True
    momentum: Number | None = None
    nesterov: bool = False
    bias_correction: bool = False

    def __post_init__(self) -> None:
        check_learning_rate("curvature.RMSProp", self.learning_rate)
        check_statistics("curvature.RMSProp", self.statistics)

    @property
    @override
    def optax_chain(self) -> optax.GradientTransformationExtraArgs:
        # The other fields have the names of the arguments of `optax.rmsprop`.
        options = {name: value for name, value in vars(self).items() if name != "statistics"}
        return optax.rmsprop(**options)

    @override
    def current_learning_rate(self, chain_state: ChainState) -> Number:
        # In `optax.rmsprop` the learning rate comes before the momentum.
        return schedule_value(self.learning_rate, schedule_count(chain_state[1]))

    @override
    def preconditioner_diagonal(
        self, chain_state: ChainState, learning_rate: Number, params: PlayerTrees
    ) -> PlayerTrees:
        del params
        # The momentum is part of the open gain; P depends only on nu.
        rms_state: Any = chain_state[0]
        nu = rms_state.nu
        if self.bias_correction:
            nu = optax.tree.bias_correction(nu, self.decay, rms_state.count)
        # The same rounding as in optax: rsqrt under the root, a division outside of it.
        if self.eps_in_sqrt:
            return jax.tree.map(lambda leaf: learning_rate * jax.lax.rsqrt(leaf + self.eps), nu)
        return jax.tree.map(lambda leaf: learning_rate / (jnp.sqrt(leaf) + self.eps), nu)
