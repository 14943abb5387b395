"""GT-DDP-KFAC: `Q_uu = A (x) B` (paper Table 1 and Eq. 44)."""

import dataclasses

from typing_extensions import override

from gtddp_jax.core.types import Flag, Number
from gtddp_jax.core.validation import check_choice
from gtddp_jax.curvature.kronecker import damping
from gtddp_jax.curvature.kronecker.eigenbases import Eigenbasis, kronecker_eigenvalues
from gtddp_jax.curvature.kronecker.eigenvalue_rule import (
    EigenvalueRule,
    Moments,
    PlayerCurvature,
    PlayerFactors,
)
from gtddp_jax.curvature.kronecker.factor_statistics import PlayerObservation
from gtddp_jax.curvature.kronecker.kronecker_curvature import KroneckerCurvature


@dataclasses.dataclass(frozen=True)
class KFACEigenvalues(EigenvalueRule):
    """Products of the factors' eigenvalues, damped in the given form."""

    damping_form: str

    @property
    @override
    def damps_factors(self) -> bool:
        return self.damping_form == "factored"

    @override
    def initial_moments(self, row_basis: Eigenbasis, column_basis: Eigenbasis) -> Moments:
        # The eigenvalues of the factors are all that KFAC needs.
        del row_basis, column_basis
        return ()

    @override
    def next_moments(
        self, player: PlayerFactors, observation: PlayerObservation, factors_updated: Flag
    ) -> Moments:
        del player, observation, factors_updated
        return ()

    @override
    def player_curvature(self, player: PlayerFactors, gamma: Number) -> PlayerCurvature:
        bases = player.row_basis, player.column_basis
        # From the bases of the last refresh, with the damping of this step.
        scale = damping.damped_inverse(*bases, gamma, self.damping_form)
        return PlayerCurvature(*bases, kronecker_eigenvalues(*bases), scale)


@dataclasses.dataclass(frozen=True)
class KFAC(KroneckerCurvature):
    """KFAC: `P = eta (A (x) B + damping)^-1`, factors `A = E[x x^T]` and `B = E[V_h V_h^T]`.

    V_h is a sample's output adjoint, multiplied by the weight that the game gives the sample.
    Without feedback it is the plain adjoint, and the method is KFAC (Martens and Grosse 2015) with
    the empirical Fisher matrix, as in the paper. Convolutions follow KFC (Grosse and Martens 2016).
    A bias counts as the weight of an input 1.

    Args:
        learning_rate: eta, a number or an optax schedule.
        damping: gamma > 0, a number or an optax schedule.
        momentum: decay of the momentum of the preconditioned gradient, or None.
        nesterov: whether to use Nesterov momentum.
        weight_decay: decoupled weight decay, or None.
        norm_constraint: bound on `eta^2 q^T Q_uu^-1 q` of each stage, or None.
        factor_decay: decay of the running factors; 0 keeps only the last batch.
        factors_every: number of steps between updates of the factors.
        refresh_every: number of steps between eigendecompositions of the factors.
        stagger: whether the stages take turns in a period rather than update and decompose their
            factors all in the same step. The first step does all of them in any case.
        positions: how to treat the positions of a sample (pixels, or tokens of a dense layer on
            [B, T, d]): "expand" as separate vectors, "reduce" as one.
        cooperative: how players of one stage account for each other: "none", "theorem3", "rescale"
            or "joint"; see `gtddp_jax.curvature.kronecker.cooperation`.
        other: the method of players without a Kronecker form (LayerNorm, embeddings, custom
            modules): an `SGD`, `RMSProp` or `Adam`. None for `eta / (s + gamma)` in each
            parameter, s the running mean (decay `factor_decay`) of the number of samples times
            the squared mean gradient, with the momentum and weight decay of the other players.
        full_limit: dense factors wider than this are kept at low rank.
        window_rows: the number of vectors that represent a factor of low rank. Of a batch with more
            vectors, as many are taken, evenly spread over the batch.
        damping_form: "exact" damps the product of the factors (in cooperative stages: each player's
            own block); "factored" damps the factors, balanced by pi.

    Raises:
        ValueError: an argument is out of range; the error names it and what is supported.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.KFAC(1e-2, damping=1e-2, momentum=0.9)
    """

    damping_form: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("curvature.KFAC", "damping_form", self.damping_form, damping.DAMPING_FORMS)

    @property
    @override
    def eigenvalue_rule(self) -> EigenvalueRule:
        return KFACEigenvalues(self.damping_form)
