"""Curvatures: the base methods of the sequential game, each with its own preconditioner."""

from collections.abc import Callable

from gtddp_jax.curvature.adam import Adam
from gtddp_jax.curvature.base import Curvature, Policy, StageInputs
from gtddp_jax.curvature.from_optax import FromOptax
from gtddp_jax.curvature.kronecker.ekfac import EKFAC
from gtddp_jax.curvature.kronecker.kfac import KFAC
from gtddp_jax.curvature.rmsprop import RMSProp
from gtddp_jax.curvature.sgd import SGD
from gtddp_jax.curvature.soap.soap import SOAP

CURVATURES: dict[str, Callable[..., Curvature]] = {
    "sgd": SGD,
    "rmsprop": RMSProp,
    "adam": Adam,
    "kfac": KFAC,
    "ekfac": EKFAC,
    "soap": SOAP,
    "from_optax": FromOptax,
}
"""All curvatures by name."""

__all__ = [
    "CURVATURES",
    "EKFAC",
    "KFAC",
    "SGD",
    "SOAP",
    "Adam",
    "Curvature",
    "FromOptax",
    "Policy",
    "RMSProp",
    "StageInputs",
]
