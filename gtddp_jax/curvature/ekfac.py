"""GT-DDP-EKFAC: KFAC's eigenbases with second moments of the gradients (George et al. 2018)."""

import dataclasses

import jax
from jaxtyping import Array, Float

from gtddp_jax.core.samples import Samples
from gtddp_jax.core.types import Flag, Number, PerSample, Tree
from gtddp_jax.curvature.base import Move
from gtddp_jax.kronecker import damping, second_moments
from gtddp_jax.kronecker.bases import Basis, Table, eigenvalues
from gtddp_jax.kronecker.checks import one_of
from gtddp_jax.kronecker.cooperation.base import Own
from gtddp_jax.kronecker.layouts import Layout
from gtddp_jax.kronecker.method import KroneckerCurvature
from gtddp_jax.kronecker.state import Player


@dataclasses.dataclass(frozen=True)
class ekfac(KroneckerCurvature):  # noqa: N801  (a constructor)
    """`P = eta U (s + damping)^-1 U^T`: U from KFAC's factors, s second moments along U.

    With `factor_decay=0, stagger=False` and `factors_every` equal to `refresh_every` it is the
    paper's baseline, EKFAC-pytorch: `mode="running"` its running averages (`ra`), and
    `mode="per_example", scale_decay=0` with `factors_every=1` its estimate from each batch.

    Args:
        learning_rate: as for `kfac`.
        damping: as for `kfac`; it is added to s.
        momentum: as for `kfac`.
        nesterov: as for `kfac`.
        weight_decay: as for `kfac`.
        norm_constraint: as for `kfac`.
        factor_decay: as for `kfac`.
        factors_every: as for `kfac`.
        refresh_every: as for `kfac`.
        stagger: as for `kfac`.
        positions: as for `kfac`.
        cooperative: as for `kfac`.
        other: as for `kfac`.
        full_limit: as for `kfac`.
        window_rows: as for `kfac`.
        mode: "running" takes s from the rotated mini-batch gradient at every step, "per_example"
            from the rotated gradients of the samples whenever factors are updated.
        scale_decay: share of the old s.

    Raises:
        ValueError: an argument out of its range, named with what is supported.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.ekfac(1e-2, damping=1e-2, mode="running")
    """

    mode: str = "running"
    scale_decay: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("curvature.ekfac", "mode", self.mode, second_moments.MODES)
        if not 0 <= self.scale_decay < 1:
            raise ValueError(
                f"curvature.ekfac(scale_decay={self.scale_decay!r}): give a number in [0, 1)."
            )

    @property
    def damping_form(self) -> str:
        """See `KroneckerCurvature`."""
        return "exact"

    def start_moments(self, left: Basis, right: Basis) -> Tree:
        """See `KroneckerCurvature`."""
        return eigenvalues(left, right)

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
        left, right, old = player.left, player.right, player.moments

        def mixed(new: Table) -> Table:
            decay = self.scale_decay
            return jax.tree.map(
                lambda o, n: (decay * o + (1 - decay) * n).astype(o.dtype), old, new
            )

        if self.mode == "running":
            return mixed(second_moments.of_gradient(q, left, right, samples))
        return jax.lax.cond(
            observed,
            lambda: mixed(second_moments.of_samples(layout, move, alpha, left, right, samples)),
            lambda: old,
        )

    def own(self, player: Player, gamma: Number) -> Own:
        """See `KroneckerCurvature`."""
        scale = damping.exact(player.moments, gamma)
        return Own(player.left, player.right, player.moments, scale)
