"""What trains a network: every base optimizer, alone and inside a game.

A method is one entry of ``OPTIMIZERS`` (SGD, RMSprop, Adam, KFAC, EKFAC ...) played by the rules
of one entry of ``GAMES`` (none, sequential, implicit). A new game is one more entry; every
optimizer then has it, if it has the form of an optax optimizer where the game needs one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import optax

import gtddp_jax as gt
from gtddp_jax.training import model
from gtddp_jax.training.settings import TERMINALS, Rate, Settings
from gtddp_jax.training.steps import Loss, StepMaker, game_step, gradient_step, implicit_step
from gtddp_jax.training.tables import look_up


@dataclass(frozen=True)
class Optimizer:
    """A base optimizer and its GT-DDP form.

    Attributes:
        label: Name for people.
        learning_rate: Default learning rate.
        plain: Builds the optax optimizer from a rate; None if optax has none, because it
            needs to see the network.
        feedback: Builds the GT-DDP form from a network, a loss and a rate, with the keywords
            ``rollout``, ``terminal`` and ``own_curvature``.
    """

    label: str
    learning_rate: float
    plain: Callable[..., optax.GradientTransformation] | None
    feedback: Callable[..., optax.GradientTransformationExtraArgs]


KRONECKER: dict[str, Any] = {
    "damping": 0.03,
    "momentum": 0.9,
    "other": gt.curvature.adam(1e-3),  # for scale and bias of normalisations
}

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer("SGD", 0.01, partial(optax.sgd, momentum=0.9), partial(gt.sgd, momentum=0.9)),
    "plain_sgd": Optimizer("SGD without momentum", 0.1, optax.sgd, gt.sgd),
    "rmsprop": Optimizer("RMSprop", 0.001, optax.rmsprop, gt.rmsprop),
    "adam": Optimizer("Adam", 0.001, optax.adam, gt.adam),
    "kfac": Optimizer("KFAC", 0.01, None, partial(gt.kfac, **KRONECKER)),
    "ekfac": Optimizer("EKFAC", 0.01, None, partial(gt.ekfac, **KRONECKER)),
}


@dataclass(frozen=True)
class Game:
    """Rules by which an optimizer's layers act together.

    Attributes:
        name: Template of a method's name, filled with the optimizer's key.
        label: Template of a method's label, filled with the optimizer's label.
        build: Builds the optimizer.
        step: Makes the training step that fits what ``build`` returns.
    """

    name: str
    label: str
    build: Callable[
        [Optimizer, gt.Network, Loss, Settings, Rate, Any], optax.GradientTransformation
    ]
    step: StepMaker


def _plain(
    optimizer: Optimizer,
    net: gt.Network,
    loss: Loss,
    settings: Settings,
    rate: Rate,
    batch_stats: Any,
) -> optax.GradientTransformation:
    if optimizer.plain is None:
        return optimizer.feedback(net, loss, rate, feedback=False, batch_stats=batch_stats)
    return optimizer.plain(rate)


def _sequential(
    optimizer: Optimizer,
    net: gt.Network,
    loss: Loss,
    settings: Settings,
    rate: Rate,
    batch_stats: Any,
) -> optax.GradientTransformation:
    return optimizer.feedback(
        net,
        loss,
        rate,
        rollout=settings.rollout,
        terminal=TERMINALS[settings.terminal](settings.max_shift),
        own_curvature=settings.own_curvature,
        batch_stats=batch_stats,
    )


def _implicit(
    optimizer: Optimizer,
    net: gt.Network,
    loss: Loss,
    settings: Settings,
    rate: Rate,
    batch_stats: Any,
) -> optax.GradientTransformation:
    assert optimizer.plain is not None  # `method` has seen to it
    base = optimizer.plain(rate)
    if model.is_plain(net):
        return gt.implicit(base, net.apply, loss, weights=settings.weights)
    apply = partial(model.implicit_apply, net)
    return gt.implicit(base, apply, loss, weights=settings.weights, has_aux=True, aux=batch_stats)


GAMES: dict[str, Game] = {
    "none": Game("{}", "{}", _plain, gradient_step),
    "sequential": Game("gtddp-{}", "GT-DDP-{}", _sequential, game_step),
    "implicit": Game("implicit-{}", "Implicit-{}", _implicit, implicit_step),
}
"""All games by name: the base optimizer alone, one stage after the other, all stages at once."""


@dataclass(frozen=True)
class Method:
    """An optimizer inside a game.

    Attributes:
        name: Identifier in files: ``gtddp-adam``.
        label: Name for people: ``GT-DDP-Adam``.
        build: Builds the optimizer for a network, a loss, settings, the rate of every step and the
            first running statistics.
        step: Makes the training step for the built optimizer.
        weighs: Whether it weighs samples: every game does, a base optimizer does not.
    """

    name: str
    label: str
    build: Callable[[gt.Network, Loss, Settings, Rate, Any], optax.GradientTransformation]
    step: StepMaker
    weighs: bool


def method(optimizer: str, game: str) -> Method:
    """Puts the optimizer called ``optimizer`` into the game called ``game``.

    Raises:
        ValueError: If ``optimizer`` is not in ``OPTIMIZERS``, ``game`` not in ``GAMES``, or the
            game needs an optax optimizer and there is none of that name.
    """
    base = look_up(OPTIMIZERS, optimizer, "optimizer")
    rules = look_up(GAMES, game, "game")
    if base.plain is None and game == "implicit":
        able = ", ".join(name for name, entry in OPTIMIZERS.items() if entry.plain is not None)
        raise ValueError(
            f"The implicit game needs an optax optimizer, which {optimizer} is not. "
            f"Supported: {able}."
        )
    return Method(
        rules.name.format(optimizer),
        rules.label.format(base.label),
        partial(rules.build, base),
        game_step if base.plain is None else rules.step,
        weighs=game != "none",
    )
