"""GT-DDP-Adam: RMSprop's diagonal with bias correction, momentum in the open gain (DESIGN §5)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from gtddp_jax.core.types import Number, Rate, Tree
from gtddp_jax.curvature.base import State
from gtddp_jax.curvature.diagonal import DiagonalCurvature, check_rate, rate_now


@dataclasses.dataclass(frozen=True)
class adam(DiagonalCurvature):  # noqa: N801  (a constructor, named as optax names its own)
    """`P = eta / (sqrt(nu_hat + eps_root) + eps)`. With feedback off: `optax.adam` or `adamw`.

    Args:
        learning_rate: eta, a number or an optax schedule.
        b1: decay of the mean of Q_u, which is in the open gain only.
        b2: decay of the mean of Q_u^2.
        eps: added to the root.
        eps_root: added under the root.
        mu_dtype: dtype of the mean of Q_u, or None.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: decoupled weight decay, part of the open gain (so that other layers answer to
            it); None for none.
        mask: which parameters decay, as in `optax.adamw`; a tree of booleans over
            `{player: parameters}` of a stage is asked of a callable only.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.adam(1e-3)
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
        check_rate("curvature.adam", self.learning_rate)
        if self.mask is not None and not callable(self.mask):
            raise ValueError(
                "curvature.adam(mask=...): a stage sees its own players only, so the mask must be "
                "a function from `{player: parameters}` to booleans, not a tree."
            )

    @property
    def base(self) -> optax.GradientTransformationExtraArgs:
        """See `DiagonalCurvature`."""
        scale = optax.scale_by_adam(
            self.b1, self.b2, self.eps, self.eps_root, self.mu_dtype, nesterov=self.nesterov
        )
        decay = (
            optax.identity()
            if self.weight_decay is None
            else optax.add_decayed_weights(self.weight_decay, self.mask)
        )
        return optax.chain(scale, decay, optax.scale_by_learning_rate(self.learning_rate))

    def rate(self, state: State) -> Number:
        """See `DiagonalCurvature`."""
        return rate_now(self.learning_rate, state[2])

    def diagonal(self, state: State, rate: Number, params: Tree) -> Tree:
        """See `DiagonalCurvature`."""
        del params
        nu = optax.tree.bias_correction(state[0].nu, self.b2, state[0].count)
        return jax.tree.map(lambda n: rate / (jnp.sqrt(n + self.eps_root) + self.eps), nu)
