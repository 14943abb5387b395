"""GT-DDP-EKFAC: KFAC's eigenbases with second moments of the gradients (George et al. 2018)."""

import dataclasses

import jax
from typing_extensions import override

from gtddp_jax.core.types import Flag, Number
from gtddp_jax.core.validation import check_choice
from gtddp_jax.curvature.kronecker import damping, second_moments
from gtddp_jax.curvature.kronecker.eigenbases import Eigenbasis, EigenTable, kronecker_eigenvalues
from gtddp_jax.curvature.kronecker.eigenvalue_rule import (
    EigenvalueRule,
    Moments,
    PlayerCurvature,
    PlayerFactors,
)
from gtddp_jax.curvature.kronecker.factor_statistics import PlayerObservation
from gtddp_jax.curvature.kronecker.kronecker_curvature import KroneckerCurvature


@dataclasses.dataclass(frozen=True)
class EKFACEigenvalues(EigenvalueRule):
    """Running second moments of the gradients, see `second_moments`."""

    mode: str
    scale_decay: float

    @property
    @override
    def damps_factors(self) -> bool:
        # The moments are not a product of two factors.
        return False

    @override
    def initial_moments(self, row_basis: Eigenbasis, column_basis: Eigenbasis) -> Moments:
        # Without gradients in the new bases yet, start from KFAC's estimate.
        return kronecker_eigenvalues(row_basis, column_basis)

    @override
    def next_moments(
        self, player: PlayerFactors, observation: PlayerObservation, factors_updated: Flag
    ) -> Moments:
        bases, old = (player.row_basis, player.column_basis), player.moments
        decay = self.scale_decay

        def mixed_with_old(new: EigenTable) -> Moments:
            # Moments keep their dtype, whatever that of the gradients.
            return jax.tree.map(
                lambda before, now: (decay * before + (1 - decay) * now).astype(before.dtype),
                old,
                new,
            )

        if self.mode == "running":
            return mixed_with_old(second_moments.batch_gradient_moments(observation, *bases))
        # Per-sample gradients are expensive, so they are rotated only when factors are updated.
        return jax.lax.cond(
            factors_updated,
            lambda: mixed_with_old(second_moments.sample_gradient_moments(observation, *bases)),
            lambda: old,
        )

    @override
    def player_curvature(self, player: PlayerFactors, gamma: Number) -> PlayerCurvature:
        moments = player.moments
        assert isinstance(moments, EigenTable)
        scale = damping.exact_inverse(moments, gamma)
        return PlayerCurvature(player.row_basis, player.column_basis, moments, scale)


@dataclasses.dataclass(frozen=True)
class EKFAC(KroneckerCurvature):
    """EKFAC: `P = eta U (s + damping)^-1 U^T`, U from KFAC's factors, s second moments along U.

    With `factor_decay=0`, `stagger=False` and `factors_every` equal to `refresh_every` it is the
    paper's baseline, EKFAC-pytorch: `mode="running"` its running averages (option `ra`), and
    `mode="per_example"` with `scale_decay=0` and `factors_every=1` its estimate from each batch.

    Args:
        learning_rate: as for `KFAC`.
        damping: as for `KFAC`; it is added to s.
        momentum: as for `KFAC`.
        nesterov: as for `KFAC`.
        weight_decay: as for `KFAC`.
        norm_constraint: as for `KFAC`.
        factor_decay: as for `KFAC`.
        factors_every: as for `KFAC`.
        refresh_every: as for `KFAC`.
        stagger: as for `KFAC`.
        positions: as for `KFAC`.
        cooperative: as for `KFAC`.
        other: as for `KFAC`.
        full_limit: as for `KFAC`.
        window_rows: as for `KFAC`.
        mode: "running" estimates s in every step from the rotated mini-batch gradient,
            "per_example" from the rotated per-sample gradients whenever factors are updated.
        scale_decay: decay of s.

    Raises:
        ValueError: an argument is out of range; the error names it and what is supported.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.EKFAC(1e-2, damping=1e-2, mode="running")
    """

    mode: str = "running"
    scale_decay: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("curvature.EKFAC", "mode", self.mode, second_moments.MOMENT_MODES)
        if not 0 <= self.scale_decay < 1:
            raise ValueError(
                f"curvature.EKFAC(scale_decay={self.scale_decay!r}): give a number in [0, 1)."
            )

    @property
    @override
    def eigenvalue_rule(self) -> EigenvalueRule:
        return EKFACEigenvalues(self.mode, self.scale_decay)
