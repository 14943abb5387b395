"""What a base optimizer is compared with: our games, and what else the same time buys.

A variant makes a training method out of a base optimizer's name. One more is one more entry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gtddp_jax.evidence import competitors
from gtddp_jax.training.methods import Method, method


@dataclass(frozen=True)
class Variant:
    """A way to use a base optimizer.

    Attributes:
        label: Template of its name for people, filled with the base's.
        method: Makes the training method from the base's key in ``methods.OPTIMIZERS``.
        settings: Fields of ``Settings`` that it fixes.
        bases: The bases it makes sense for; None for all.
    """

    label: str
    method: Callable[[str], Method]
    settings: Mapping[str, Any] = field(default_factory=dict)
    bases: tuple[str, ...] | None = None


def _game(name: str) -> Callable[[str], Method]:
    return partial(method, game=name)


OPTAX = ("plain_sgd", "sgd", "rmsprop", "adam")
"""Bases that optax has, which the implicit game and most competitors need."""

VARIANTS: dict[str, Variant] = {
    "base": Variant("{}", _game("none")),
    "sequential": Variant("GT-DDP-{}", _game("sequential")),
    "sequential-own": Variant(
        "GT-DDP-{} (own curvature)", _game("sequential"), {"own_curvature": True}
    ),
    "sequential-far": Variant(
        "GT-DDP-{} (no radius)", _game("sequential"), {"max_shift": float("inf")}
    ),
    "sequential-gradient": Variant(
        "GT-DDP-{} (gradient)", _game("sequential"), {"terminal": "gradient"}
    ),
    "sequential-projected": Variant(
        "GT-DDP-{} (projected)", _game("sequential"), {"terminal": "projected"}
    ),
    "sequential-nonlinear": Variant(
        "GT-DDP-{} (nonlinear)", _game("sequential"), {"rollout": "nonlinear"}
    ),
    "implicit": Variant("Implicit-{}", _game("implicit"), bases=OPTAX),
    "product": Variant("Implicit-{} (product)", _game("implicit"), {"weights": "product"}, OPTAX),
    "trial": Variant("Implicit-{} (trial)", _game("implicit"), {"weights": "trial"}, OPTAX),
    "extragradient": Variant("{} extragradient", competitors.extragradient, bases=OPTAX),
    "sam": Variant("{} SAM", competitors.sam, bases=OPTAX),
    "momo": Variant("MoMo-Adam", competitors.momo_adam, bases=("adam",)),
    "schedule-free": Variant("schedule-free AdamW", competitors.schedule_free, bases=("adam",)),
    "prodigy": Variant("Prodigy", competitors.prodigy, bases=("adam",)),
}
"""All variants by name. "base" is what the others are paired with."""


def fits(variant: str, base: str) -> bool:
    """Whether the variant exists for the base."""
    bases = VARIANTS[variant].bases
    return bases is None or base in bases
