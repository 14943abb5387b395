"""The training methods that a base optimizer is compared with: games, and competitors.

A variant makes a training method from the name of a base optimizer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gtddp_lab.studies import competitors
from gtddp_lab.studies.paper.paper_method import PAPER_SETTINGS, paper_method
from gtddp_lab.studies.schedule_free_game import schedule_free_game_method
from gtddp_lab.training.methods import TrainingMethod, build_method


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
"""Bases that are optax optimizers, as the implicit game and most competitors require."""

VARIANTS: dict[str, Variant] = {
    "base": Variant("{}", _game_method("none")),
    "sequential": Variant("GT-DDP-{}", _game_method("sequential")),
    "sequential-self-response": Variant(
        "GT-DDP-{} (self-response)", _game_method("sequential"), {"self_response": True}
    ),
    "sequential-far": Variant(
        "GT-DDP-{} (no maximal shift)", _game_method("sequential"), {"max_shift": float("inf")}
    ),
    "sequential-gradient": Variant(
        "GT-DDP-{} (gradient)", _game_method("sequential"), {"terminal": "gradient"}
    ),
    "sequential-projected": Variant(
        "GT-DDP-{} (projected)", _game_method("sequential"), {"terminal": "projected"}
    ),
    "sequential-nonlinear": Variant(
        "GT-DDP-{} (nonlinear)", _game_method("sequential"), {"rollout": "nonlinear"}
    ),
    "sequential-paper": Variant("GT-DDP-{} (as published)", paper_method, PAPER_SETTINGS),
    "implicit": Variant("Implicit-{}", _game_method("implicit"), bases=OPTAX),
    "full": Variant("Implicit-{} (full)", _game_method("implicit"), {"weighting": "full"}, OPTAX),
    "extragradient": Variant("{} extragradient", competitors.extragradient_method, bases=OPTAX),
    "sam": Variant("{} SAM", competitors.sam_method, bases=OPTAX),
    "momo": Variant("MoMo-Adam", competitors.momo_adam_method, bases=("adam",)),
    "schedule-free": Variant(
        "schedule-free AdamW", competitors.schedule_free_method, bases=("adam",)
    ),
    "schedule-free-implicit": Variant(
        "Implicit-schedule-free AdamW", schedule_free_game_method, bases=("adam",)
    ),
    "prodigy": Variant("Prodigy", competitors.prodigy_method, bases=("adam",)),
}
"""All variants by name. Each is compared with "base"."""


def variant_fits(variant: str, base: str) -> bool:
    """Return whether the variant supports the base."""
    bases = VARIANTS[variant].bases
    return bases is None or base in bases
