"""Sixteen training loops with a game: few changed lines, the same loss, gradient and metrics.

They are training steps of the examples of Flax, Equinox, Haiku and optax.
"""

import itertools
from functools import partial
from typing import Any

import chex
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.dynamic_scale import DynamicScale

import gtddp_jax as gt
from gtddp_jax.losses.training_step import find_reports
from tests.default_run import quick_cases
from tests.losses import problems
from tests.losses.conversions.all_conversions import CONVERSIONS

STEPS = 2
MOST_LINES = 5
THREE_MEANS = "flax ppo"
"""Its loss is a sum of three means over the batch, each in a line of its own, in one function."""


def run(steps: Any) -> tuple[list[np.ndarray], Any]:
    """All numbers of a training loop but those of the game, and the last report or None."""
    numbers, report = [], None
    for trained, opt_state, metrics in itertools.islice(steps, STEPS):
        state = nnx.as_pure(opt_state)
        if find_reports(state):
            state, report = state.base, find_reports(state)[-1]
        # Copies, because the variables of nnx change with the next step.
        numbers += map(np.array, jax.tree.leaves(nnx.as_pure((trained, state, metrics))))
    return numbers, report


SINGLE_PRECISION_RATE = "flax lm1b"
"""Its schedule is in float32, where the compiler rounds by the program around it."""

QUICK = "flax ogbg", "flax gemma", "equinox stateful"


@pytest.mark.parametrize("name", quick_cases(CONVERSIONS, *QUICK))
def test_same_training_without_the_game(name: str) -> None:
    """Parameters, statistics, metrics, and the optimizer's state, which holds the gradients."""
    original, converted = CONVERSIONS[name]
    expected, _ = run(original())
    tolerance = 1e-6 if name == SINGLE_PRECISION_RATE else 1e-12
    for game in (lambda base: base, partial(gt.implicit, strength=0.0)):
        numbers, _ = run(converted(game))
        for number, want in zip(numbers, expected, strict=True):
            np.testing.assert_allclose(number, want, rtol=tolerance, atol=tolerance / 100)


@pytest.mark.parametrize("name", quick_cases(CONVERSIONS, *QUICK))
def test_the_game_has_an_effect(name: str) -> None:
    _, report = run(CONVERSIONS[name].converted(partial(gt.implicit, weighting="full")))
    assert report.skipped_steps == 0 and not report.samples_coupled
    assert report.sample_weight_max - report.sample_weight_min > 0.01


def test_few_lines_change() -> None:
    assert len(CONVERSIONS) == 16
    lines = {name: conversion.line_counts()[0] for name, conversion in CONVERSIONS.items()}
    assert lines.pop(THREE_MEANS) <= MOST_LINES + 4
    assert max(lines.values()) <= MOST_LINES, lines


def test_dynamic_loss_scale_takes_the_mean_loss() -> None:
    """As in Flax's "imagenet" with float16, without a game; Flax returns gradients in float32."""
    params, losses = problems.net_params(), problems.losses_of(problems.apply_net)

    @jax.jit
    def both(params: Any) -> tuple[Any, Any]:
        scaled = DynamicScale().value_and_grad(gt.mean_loss(losses), has_aux=True)
        return gt.value_and_grad(losses)(params, problems.ROWS), scaled(params, problems.ROWS)

    ((loss, aux), gradient), (_, finite, scaled_aux, scaled_gradient) = both(params)
    assert finite and optax.tree.norm(gradient) > 0.1
    chex.assert_trees_all_close(scaled_aux, (loss, aux), rtol=1e-12)
    chex.assert_trees_all_close(scaled_gradient, gradient, rtol=1e-6)
