"""GT-DDP-KFAC: `Q_uu = A (x) B` (DESIGN §5, Table 1; paper Eq. 44)."""

import dataclasses

from jaxtyping import Array, Float

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import Flag, Number, PerSample, Tree
from gtddp_jax.curvature.base import Move
from gtddp_jax.kronecker import damping
from gtddp_jax.kronecker.bases import Basis, eigenvalues
from gtddp_jax.kronecker.checks import one_of
from gtddp_jax.kronecker.cooperation.base import Own
from gtddp_jax.kronecker.layouts import Layout
from gtddp_jax.kronecker.method import KroneckerCurvature
from gtddp_jax.kronecker.state import Player


@dataclasses.dataclass(frozen=True)
class kfac(KroneckerCurvature):  # noqa: N801  (a constructor)
    """`P = eta (A (x) B + damping)^-1` with running factors `A = E[x x^T]`, `B = E[V_h V_h^T]`.

    V_h is the output adjoint of a sample times the weight that the game gives it; with feedback off
    it is the plain adjoint and the method is KFAC (Martens and Grosse 2015) with the empirical
    Fisher matrix, as in the paper. Convolutions follow KFC (Grosse and Martens 2016); a bias counts
    as a weight of an input 1.

    Args:
        learning_rate: eta, a number or an optax schedule.
        damping: gamma > 0, a number or an optax schedule.
        momentum: decay of the momentum of the preconditioned gradient, or None.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: decoupled weight decay, or None.
        norm_constraint: bound on `eta^2 q^T Q_uu^-1 q` of each stage, or None.
        factor_decay: share of the old factors at each update; 0 for the last batch alone.
        factors_every: steps between updates of the factors.
        refresh_every: steps between decompositions of the factors.
        stagger: whether the stages take turns at that instead of sharing one step.
        positions: how a dense layer on [B, T, d] (and a convolution) counts its positions:
            "expand" or "reduce".
        cooperative: how players who act at once know of each other: "none", "theorem3", "rescale"
            or "joint"; see `gtddp_jax.kronecker.cooperation`.
        other: the method of players without a Kronecker form (LayerNorm, custom modules), one of
            `identity`, `rmsprop`, `adam`; without it such players are refused.
        full_limit: dense factors wider than this are kept at low rank.
        window_rows: how many vectors those remember.
        damping_form: "exact" damps the product (in cooperative stages: each player's own block),
            "factored" the factors, with the balance pi.

    Raises:
        ValueError: an argument out of its range, named with what is supported.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.kfac(1e-2, damping=1e-2, momentum=0.9)
    """

    damping_form: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("curvature.kfac", "damping_form", self.damping_form, damping.FORMS)

    def start_moments(self, left: Basis, right: Basis) -> Tree:
        """See `KroneckerCurvature`; KFAC has none."""
        del left, right
        return ()

    def next_moments(
        self,
        player: Player,
        layout: Layout,
        q: Float[Array, "groups rows columns"],
        move: Move,
        alpha: PerSample,
        observed: Flag,
        samples: Samples,
    ) -> Tree:
        """See `KroneckerCurvature`."""
        del player, layout, q, move, alpha, observed, samples
        return ()

    def own(self, player: Player, gamma: Number) -> Own:
        """See `KroneckerCurvature`."""
        left, right = player.left, player.right
        scale = damping.inverse(left, right, gamma, self.damping_form)
        return Own(left, right, eigenvalues(left, right), scale)
