"""GT-DDP-Adam: RMSprop's diagonal with bias correction, and momentum in the open gain."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from typing_extensions import override

from gtddp_jax.core.types import Number, PlayerTrees, Rate, Tree
from gtddp_jax.curvature.diagonal import ChainState, DiagonalCurvature, check_statistics
from gtddp_jax.curvature.learning_rate import check_learning_rate, schedule_count, schedule_value


@dataclasses.dataclass(frozen=True)
class Adam(DiagonalCurvature):
    """Adam: `P = eta / (sqrt(nu_hat + eps_root) + eps)`.

    Without feedback it is `optax.adam`, or `optax.adamw` with weight decay.

    Args:
        learning_rate: eta, a number or an optax schedule.
        b1: decay of the running mean of Q_u, which enters the open gain only.
        b2: decay of nu, the running mean of Q_u^2.
        eps: added to the root.
        eps_root: added under the root.
        mu_dtype: dtype of the running mean of Q_u, or None for that of the parameters.
        nesterov: whether to use Nesterov momentum.
        weight_decay: decoupled weight decay, or None. It is part of the open gain, so that other
            layers respond to it.
        mask: a function from `{player: parameters}` of a stage to booleans, True for the
            parameters that decay; None for all. Unlike in `optax.adamw` it cannot be a tree.
        statistics: "closed" makes second moments and momentum from the closed gradient, "open"
            from the open one, as the paper's Table 1 does. Keyword only.

    Raises:
        ValueError: `learning_rate` is negative, `mask` is not a function, or `statistics` is
            unknown.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.Adam(1e-3)
    """

    learning_rate: Rate
    b1: Number = 0.9
    b2: Number = 0.999
    eps: Number = 1e-8
    eps_root: Number = 0.0
    mu_dtype: DTypeLike | None = None
    nesterov: bool = False
    weight_decay: Number | None = None
    mask: Callable[[Tree], Tree] | None = None

    def __post_init__(self) -> None:
        check_learning_rate("curvature.Adam", self.learning_rate)
        check_statistics("curvature.Adam", self.statistics)
        # A tree would have to match each stage separately.
        if self.mask is not None and not callable(self.mask):
            raise ValueError(
                "curvature.Adam(mask=...): each stage sees only its own players, so the mask must "
                "be a function from `{player: parameters}` to booleans, not a tree."
            )

    @property
    @override
    def optax_chain(self) -> optax.GradientTransformationExtraArgs:
        scale = optax.scale_by_adam(
            self.b1, self.b2, self.eps, self.eps_root, self.mu_dtype, nesterov=self.nesterov
        )
        # Before the learning rate, which multiplies the decay, as in `optax.adamw`.
        decay = (
            optax.identity()
            if self.weight_decay is None
            else optax.add_decayed_weights(self.weight_decay, self.mask)
        )
        return optax.chain(scale, decay, optax.scale_by_learning_rate(self.learning_rate))

    @override
    def current_learning_rate(self, chain_state: ChainState) -> Number:
        # `scale_by_learning_rate` comes last in the chain.
        return schedule_value(self.learning_rate, schedule_count(chain_state[2]))

    @override
    def preconditioner_diagonal(
        self, chain_state: ChainState, learning_rate: Number, params: PlayerTrees
    ) -> PlayerTrees:
        del params
        # The momentum mu is part of the open gain; P depends only on nu.
        adam_state: Any = chain_state[0]
        # optax corrects the bias with the count after the update, which is the one here.
        nu_hat = optax.tree.bias_correction(adam_state.nu, self.b2, adam_state.count)
        return jax.tree.map(
            lambda leaf: learning_rate / (jnp.sqrt(leaf + self.eps_root) + self.eps), nu_hat
        )
