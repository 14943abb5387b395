"""The contract of what KFAC and EKFAC do differently: the curvature along the eigenbases."""

import abc
from typing import NamedTuple, TypeAlias

from gtddp_jax.core.types import Flag, Number
from gtddp_jax.curvature.kronecker.eigenbases import Eigenbasis, EigenTable
from gtddp_jax.curvature.kronecker.factor_statistics import PlayerObservation
from gtddp_jax.curvature.kronecker.operators import KroneckerOperator
from gtddp_jax.curvature.kronecker.running_factors import Factor

Moments: TypeAlias = EigenTable | tuple[()]
"""Second moments along the eigenbases, or nothing where a rule keeps none."""


class PlayerFactors(NamedTuple):
    """The statistics of one Kronecker player.

    Attributes:
        input_factor: A, second moments of the vectors a.
        output_factor: B, second moments of the vectors b.
        row_basis: eigenbasis of A at the last refresh.
        column_basis: eigenbasis of B at the last refresh.
        moments: second moments in the two bases (EKFAC), or `()`.
    """

    input_factor: Factor
    output_factor: Factor
    row_basis: Eigenbasis
    column_basis: Eigenbasis
    moments: Moments


class PlayerCurvature(NamedTuple):
    """The curvature of one player in its eigenbases.

    Attributes:
        row_basis: eigenbasis of A.
        column_basis: eigenbasis of B.
        curvature: eigenvalues of Q_uu without damping.
        scale: eigenvalues of the player's own P, damping included.
    """

    row_basis: Eigenbasis
    column_basis: Eigenbasis
    curvature: EigenTable
    scale: EigenTable

    def make_operator(self, player: str) -> KroneckerOperator:
        """P of the player of this name when it acts alone."""
        return KroneckerOperator(player, self.row_basis, self.column_basis, self.scale)


class EigenvalueRule(abc.ABC):
    """Estimates the eigenvalues of Q_uu and adds the damping. Static; its state is arrays."""

    @property
    @abc.abstractmethod
    def damps_factors(self) -> bool:
        """Whether damping is added to the two factors rather than to their product."""

    @abc.abstractmethod
    def initial_moments(self, row_basis: Eigenbasis, column_basis: Eigenbasis) -> Moments:
        """`PlayerFactors.moments` in new bases."""

    @abc.abstractmethod
    def next_moments(
        self, player: PlayerFactors, observation: PlayerObservation, factors_updated: Flag
    ) -> Moments:
        """`PlayerFactors.moments` after one more step.

        Args:
            player: the player's statistics, factors and bases of this step included.
            observation: what it did in this step.
            factors_updated: whether this step has updated the factors.
        """

    @abc.abstractmethod
    def player_curvature(self, player: PlayerFactors, gamma: Number) -> PlayerCurvature:
        """The player's curvature, and its own P with damping gamma."""
