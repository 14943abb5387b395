"""Training methods: every base optimizer, alone and in a game.

A method combines one entry of ``OPTIMIZERS`` (SGD, Nesterov, Adam, KFAC ...) with one entry
of ``GAMES`` (none, sequential, implicit). A new game is one more entry and then works with every
optimizer, provided that the optimizer has an optax form where the game needs one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import optax

import gtddp_jax as gt
from gtddp_jax.sequential import DEFAULT_BOUNDS
from gtddp_lab.core.look_up import look_up
from gtddp_lab.training import model_call
from gtddp_lab.training.averaging import Average, BuildOptimizer, keep_point, step_at_point
from gtddp_lab.training.iterate_average import average_iterates, averaged_iterates
from gtddp_lab.training.settings import LearningRate, TrainSettings
from gtddp_lab.training.state import BatchStats, Params
from gtddp_lab.training.steps import (
    MakeStep,
    SampleLoss,
    make_gradient_step,
    make_implicit_step,
    make_sequential_step,
)


@dataclass(frozen=True)
class OptimizerEntry:
    """A base optimizer and its GT-DDP form.

    Attributes:
        label: Name for display.
        learning_rate: Default learning rate.
        build_base: Builds the optax optimizer from a learning rate; None if optax has none because
            the optimizer depends on the network.
        build_sequential: Builds the optimizer of the sequential game from a network, a loss and a
            learning rate, with the keywords of ``gt.gtddp``; None if the sequential game has none.
        average: The average of the iterates at which it is scored, from the state of the optax
            optimizer and the point at which gradients are taken; None if it is scored where it
            takes gradients. An average takes the place of the learning rate schedule.
    """

    label: str
    learning_rate: float
    build_base: Callable[..., optax.GradientTransformation] | None
    build_sequential: Callable[..., optax.GradientTransformationExtraArgs] | None
    average: Average | None = None


KRONECKER_DEFAULTS: dict[str, Any] = {
    "damping": 0.03,
    "momentum": 0.9,
    "other": gt.curvature.Adam(1e-3),  # for scale and bias of normalization layers
}

OPTIMIZERS: dict[str, OptimizerEntry] = {
    "sgd": OptimizerEntry(
        "SGD", 0.01, partial(optax.sgd, momentum=0.9), partial(gt.sgd, momentum=0.9)
    ),
    "nesterov": OptimizerEntry(
        "Nesterov",
        0.01,
        partial(optax.sgd, momentum=0.9, nesterov=True),
        partial(gt.sgd, momentum=0.9, nesterov=True),
    ),
    "plain_sgd": OptimizerEntry("SGD without momentum", 0.1, optax.sgd, gt.sgd),
    "rmsprop": OptimizerEntry("RMSprop", 0.001, optax.rmsprop, gt.rmsprop),
    "adam": OptimizerEntry("Adam", 0.001, optax.adam, gt.adam),
    "nadam": OptimizerEntry("NAdam", 0.001, optax.nadam, partial(gt.adam, nesterov=True)),
    "schedule_free": OptimizerEntry(
        "schedule-free AdamW",
        0.003,
        optax.contrib.schedule_free_adamw,
        None,
        average=optax.contrib.schedule_free_eval_params,
    ),
    "ema_nesterov": OptimizerEntry(
        "averaged Nesterov",
        0.01,
        lambda rate: average_iterates(optax.sgd(rate, momentum=0.9, nesterov=True)),
        None,
        average=averaged_iterates,
    ),
    "lion": OptimizerEntry("Lion", 3e-4, optax.lion, None),
    # Orthogonal steps for matrices; Adam's for all else, the kernels of convolutions among it.
    "muon": OptimizerEntry("Muon", 0.01, optax.contrib.muon, None),
    "kfac": OptimizerEntry("KFAC", 0.01, None, partial(gt.kfac, **KRONECKER_DEFAULTS)),
    "ekfac": OptimizerEntry("EKFAC", 0.01, None, partial(gt.ekfac, **KRONECKER_DEFAULTS)),
    "soap": OptimizerEntry("SOAP", 0.003, None, gt.soap),
}
"""Base optimizers by name."""

RIVALS = {
    "sgd": "nesterov",
    "nesterov": "sgd",
    "adam": "nadam",
    "nadam": "adam",
    "schedule_free": "nadam",
}
"""For a base with momentum, the same optimizer with, or without, Nesterov's look-ahead.

Looking ahead does for free part of what a game does: it anticipates the momentum step. Beside an
average without a schedule, look-ahead with one.
"""


@dataclass(frozen=True)
class GameRules:
    """How an optimizer's layers act together.

    Attributes:
        name: Template of a method's name, formatted with the optimizer's key.
        label: Template of a method's label, formatted with the optimizer's label.
        build: Builds the optimizer.
        make_step: Makes the training step for the optimizer that ``build`` returns.
    """

    name: str
    label: str
    build: Callable[
        [OptimizerEntry, gt.Network, SampleLoss, TrainSettings, LearningRate, BatchStats],
        optax.GradientTransformation,
    ]
    make_step: MakeStep


def _build_base(
    optimizer: OptimizerEntry,
    net: gt.Network,
    loss: SampleLoss,
    settings: TrainSettings,
    rate: LearningRate,
    batch_stats: BatchStats,
) -> optax.GradientTransformation:
    if optimizer.build_base is None:
        assert optimizer.build_sequential is not None  # every optimizer has one of the two
        # KFAC, EKFAC and SOAP need the network here, so their base is the game without feedback.
        return optimizer.build_sequential(
            net, loss, rate, equilibrium="open_loop", batch_stats=batch_stats
        )
    return optimizer.build_base(rate)


def _build_sequential(
    optimizer: OptimizerEntry,
    net: gt.Network,
    loss: SampleLoss,
    settings: TrainSettings,
    rate: LearningRate,
    batch_stats: BatchStats,
) -> optax.GradientTransformation:
    assert optimizer.build_sequential is not None  # checked in `build_method`
    return optimizer.build_sequential(
        net,
        loss,
        rate,
        rollout=settings.rollout,
        terminal=_terminal_model(settings),
        self_response=settings.self_response,
        batch_stats=batch_stats,
    )


def _terminal_model(settings: TrainSettings) -> gt.terminal.TerminalModel:
    terminal = gt.terminal.TERMINALS[settings.terminal]
    if terminal is gt.terminal.ExactLoss:  # the only model with options
        return terminal(max_shift=settings.max_shift, bounds=DEFAULT_BOUNDS)
    return terminal()


def _build_implicit(
    optimizer: OptimizerEntry,
    net: gt.Network,
    loss: SampleLoss,
    settings: TrainSettings,
    rate: LearningRate,
    batch_stats: BatchStats,
) -> optax.GradientTransformation:
    assert optimizer.build_base is not None  # checked in `build_method`
    base = optimizer.build_base(rate)
    # Statistics and keys travel with the inputs and as aux.
    if model_call.is_stateless(net):
        return gt.implicit(base, net, loss, weighting=settings.weighting)
    return gt.implicit(
        base,
        partial(model_call.apply_with_state, net),
        loss,
        weighting=settings.weighting,
        has_aux=True,
        aux=batch_stats,
    )


GAMES: dict[str, GameRules] = {
    "none": GameRules("{}", "{}", _build_base, make_gradient_step),
    "sequential": GameRules("gtddp-{}", "GT-DDP-{}", _build_sequential, make_sequential_step),
    "implicit": GameRules("implicit-{}", "Implicit-{}", _build_implicit, make_implicit_step),
}
"""Games by name: the base optimizer alone; stage after stage; all stages at once."""


@dataclass(frozen=True)
class TrainingMethod:
    """An optimizer in a game.

    Attributes:
        name: Identifier in files: ``gtddp-adam``.
        label: Name for display: ``GT-DDP-Adam``.
        build: Builds the optimizer from a network, a loss, settings, the learning rate and the
            initial batch statistics.
        make_step: Makes the training step for that optimizer.
        has_sample_weights: Whether it weights samples: every game does, a base optimizer does not.
    """

    name: str
    label: str
    build: BuildOptimizer
    make_step: MakeStep
    has_sample_weights: bool


def build_method(optimizer: str, game: str) -> TrainingMethod:
    """Combines an optimizer and a game.

    Args:
        optimizer: Key in ``OPTIMIZERS``.
        game: Key in ``GAMES``.

    Raises:
        ValueError: If a name is unknown, or the optimizer has no form in the game.
    """
    entry = look_up(OPTIMIZERS, optimizer, "optimizer")
    rules = look_up(GAMES, game, "game")
    if not supports_game(entry, game):
        forms = (name for name, known in OPTIMIZERS.items() if supports_game(known, game))
        supported = ", ".join(forms)
        raise ValueError(f"The {game} game has no form of {optimizer}. Supported: {supported}.")
    build = partial(rules.build, entry)
    # A base without optax form is a game without feedback, and steps like one.
    make_step = make_sequential_step if entry.build_base is None else rules.make_step
    if entry.average is not None:
        build = keep_point(build)
        make_step = step_at_point(make_step, partial(_average_of_base, entry.average))
    return TrainingMethod(
        rules.name.format(optimizer),
        rules.label.format(entry.label),
        build,
        make_step,
        has_sample_weights=game != "none",
    )


def supports_game(optimizer: OptimizerEntry, game: str) -> bool:
    """Whether an optimizer has a form in a game; the name of the game is a key in ``GAMES``."""
    if game == "sequential":
        return optimizer.build_sequential is not None
    return game == "none" or optimizer.build_base is not None


def _average_of_base(average: Average, state: Any, point: Params) -> Params:
    """The average, from the state of the base alone or of a game around it."""
    return average(getattr(state, "base", state), point)
