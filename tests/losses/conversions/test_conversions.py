"""Sixteen training loops with a game: few changed lines, the same loss, gradient and metrics."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import gtddp_jax as gt
from gtddp_jax.losses.training_step import find_reports
from tests.losses.conversions import (
    equinox_models,
    flax_gemma,
    flax_generative,
    flax_graphs,
    flax_language,
    flax_reinforcement,
    flax_vision,
    haiku_models,
    plain_models,
)
from tests.losses.conversions.conversion import Conversion

MODULES = {
    "flax": (
        flax_vision,
        flax_language,
        flax_generative,
        flax_graphs,
        flax_gemma,
        flax_reinforcement,
    ),
    "equinox": (equinox_models,),
    "haiku": (haiku_models,),
    "optax": (plain_models,),
}


def find_conversions() -> dict[str, Conversion]:
    """All conversions, by library and example."""
    return {
        f"{library} {name.removeprefix('original_')}": Conversion(
            function, getattr(module, name.replace("original", "converted"))
        )
        for library, modules in MODULES.items()
        for module in modules
        for name, function in vars(module).items()
        if name.startswith("original_")
    }


CONVERSIONS = find_conversions()


def run(steps: Any) -> tuple[list[np.ndarray], Any]:
    """All numbers of a training loop but those of the game, and the last report or None."""
    numbers, report = [], None
    for trained, opt_state, metrics in steps:
        # Copies: the variables of nnx change with the next step.
        state = nnx.as_pure(opt_state)
        if find_reports(state):
            state, report = state.base, find_reports(state)[-1]
        numbers += map(np.array, jax.tree.leaves(nnx.as_pure((trained, state, metrics))))
    return numbers, report


GAMES = {"optax": lambda base: base, "off": partial(gt.implicit, strength=0.0)}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversion(name: str) -> None:
    original, converted = CONVERSIONS[name]
    expected, _ = run(original())
    for game in GAMES.values():
        numbers, _ = run(converted(game))
        for number, want in zip(numbers, expected, strict=True):
            np.testing.assert_allclose(number, want, rtol=1e-12, atol=1e-14)
    _, report = run(converted(partial(gt.implicit, weighting="product")))
    print(report, CONVERSIONS[name].line_counts())
    assert not report.skipped_steps and report.sample_weight_max - report.sample_weight_min > 1e-3
