"""Curvatures: what stands for Q_uu (DESIGN §5)."""

from collections.abc import Callable

from gtddp_jax.curvature.adam import adam
from gtddp_jax.curvature.base import Curvature, Move, Place, Policy
from gtddp_jax.curvature.ekfac import ekfac
from gtddp_jax.curvature.from_optax import from_optax
from gtddp_jax.curvature.identity import identity
from gtddp_jax.curvature.kfac import kfac
from gtddp_jax.curvature.rmsprop import rmsprop

CURVATURES: dict[str, Callable[..., Curvature]] = {
    "identity": identity,
    "rmsprop": rmsprop,
    "adam": adam,
    "kfac": kfac,
    "ekfac": ekfac,
    "from_optax": from_optax,
}
"""All curvatures by name."""

__all__ = [
    "CURVATURES",
    "Curvature",
    "Move",
    "Place",
    "Policy",
    "adam",
    "ekfac",
    "from_optax",
    "identity",
    "kfac",
    "rmsprop",
]
