"""GT-DDP-RMSprop: Q_uu = (1/eta) diag(sqrt(nu + eps)) (DESIGN §5; Table 1 omits the root)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.types import Number, Rate, Tree
from gtddp_jax.curvature.base import State
from gtddp_jax.curvature.diagonal import DiagonalCurvature, check_rate, rate_now


@dataclasses.dataclass(frozen=True)
class rmsprop(DiagonalCurvature):  # noqa: N801  (a constructor, named as optax names its own)
    """`P = eta / sqrt(nu + eps)`, nu the running mean of Q_u^2. Feedback off: `optax.rmsprop`.

    Args:
        learning_rate: eta, a number or an optax schedule.
        decay: decay of nu.
        eps: added to nu.
        initial_scale: first value of nu.
        eps_in_sqrt: whether `eps` stands under the root or is added to it.
        momentum: decay of the momentum in the open gain, or None.
        nesterov: whether the momentum is Nesterov's.
        bias_correction: whether nu is corrected for its start.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.rmsprop(1e-3)
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
        check_rate("curvature.rmsprop", self.learning_rate)

    @property
    def base(self) -> optax.GradientTransformationExtraArgs:
        """See `DiagonalCurvature`."""
        return optax.rmsprop(**vars(self))

    def rate(self, state: State) -> Number:
        """See `DiagonalCurvature`."""
        return rate_now(self.learning_rate, state[1])

    def diagonal(self, state: State, rate: Number, params: Tree) -> Tree:
        """See `DiagonalCurvature`."""
        del params
        nu = state[0].nu
        if self.bias_correction:
            nu = optax.tree.bias_correction(nu, self.decay, state[0].count)
        if self.eps_in_sqrt:
            return jax.tree.map(lambda n: rate * jax.lax.rsqrt(n + self.eps), nu)
        return jax.tree.map(lambda n: rate / (jnp.sqrt(n) + self.eps), nu)
