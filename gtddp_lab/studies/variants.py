"""The training methods that a base optimizer is compared with: games, and competitors.

A variant makes a training method from the name of a base optimizer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gtddp_lab.studies import competitors
from gtddp_lab.studies.paper.paper_method import PAPER_SETTINGS, paper_method
from gtddp_lab.training.methods import OPTIMIZERS, TrainingMethod, build_method, supports_game


@dataclass(frozen=True)
class Variant:
    """A way to use a base optimizer.

    Attributes:
        label: Template of its display name, formatted with the label of the base.
        method: Makes the training method from the base's key in ``methods.OPTIMIZERS``.
        settings: Fields of ``TrainSettings`` that it fixes.
        bases: The bases that it supports; None for all.
    """

    label: str
    method: Callable[[str], TrainingMethod]
    settings: Mapping[str, Any] = field(default_factory=dict)
    bases: tuple[str, ...] | None = None


def _game_method(name: str) -> Callable[[str], TrainingMethod]:
    return partial(build_method, game=name)


OPTAX = ("plain_sgd", "sgd", "nesterov", "rmsprop", "adam", "nadam")
"""Bases that are optax optimizers and are scored where they take gradients."""

IMPLICIT = tuple(name for name, entry in OPTIMIZERS.items() if supports_game(entry, "implicit"))
"""Bases of the implicit game."""

SEQUENTIAL = tuple(name for name, entry in OPTIMIZERS.items() if supports_game(entry, "sequential"))
"""Bases of the sequential game."""


VARIANTS: dict[str, Variant] = {
    "base": Variant("{}", _game_method("none")),
    "sequential": Variant("GT-DDP-{}", _game_method("sequential"), bases=SEQUENTIAL),
    "sequential-self-response": Variant(
        "GT-DDP-{} (self-response)",
        _game_method("sequential"),
        {"self_response": True},
        SEQUENTIAL,
    ),
    "sequential-paper": Variant(
        "GT-DDP-{} (as published)", paper_method, PAPER_SETTINGS, SEQUENTIAL
    ),
    "implicit": Variant("Implicit-{}", _game_method("implicit"), bases=IMPLICIT),
    "extragradient": Variant("{} extragradient", competitors.extragradient_method, bases=OPTAX),
    "sam": Variant("{} SAM", competitors.sam_method, bases=OPTAX),
    "momo": Variant("MoMo-Adam", competitors.momo_adam_method, bases=("adam",)),
}
"""All variants by name. Each is compared with "base"."""


def variant_fits(variant: str, base: str) -> bool:
    """Return whether the variant supports the base."""
    bases = VARIANTS[variant].bases
    return bases is None or base in bases
