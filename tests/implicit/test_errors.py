"""What is refused, and that the message names what is supported."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gtddp_jax as gt
from tests.implicit import models
from tests.implicit.models import implicit

BASE = optax.sgd(0.1)


def make(**options: Any) -> Any:
    arguments = {"base": BASE, "apply_fn": models.mlp, "loss": models.cross_entropy} | options
    return implicit(**arguments)


CONSTRUCTION: dict[str, tuple[dict[str, Any], str]] = {
    "weights": ({"weights": "adam"}, r"Invalid weights: 'adam'\. Supported: \('tail', 'product',"),
    "weights type": ({"weights": 3}, r"Invalid weights: 3\. Supported: .* or a model from"),
    "weights class": ({"weights": gt.weights.product}, r"Invalid weights: .*Supported"),
    "tail elsewhere": (
        {"weights": "product", "tail": "head"},
        r"tail='head' goes with weights='tail', not with 'product'.*weights\.tail\(players",
    ),
    "tail twice": (
        {"weights": gt.weights.tail(), "tail": "head"},
        r"tail='head' goes with weights='tail'",
    ),
    "terminal": ({"terminal": "line"}, r"terminal must come from gtddp_jax\.terminal, got 'line'"),
    "bounds": ({"bounds": (1.5, 2.0)}, r"bounds=\(1\.5, 2\.0\) must be \(low <= 1, high >= 1\)"),
    "strength": ({"strength": 2.0}, r"strength=2\.0 must be in \[0, 1\]"),
    "every": ({"every": 0}, r"every=0 must be an int >= 1"),
    "every type": ({"every": 1.5}, r"every=1\.5 must be an int >= 1"),
    "aux": ({"has_aux": True}, r"has_aux=True\) needs aux=\.\.\., an initial value"),
    "apply_fn": ({"apply_fn": None}, r"apply_fn and loss must be functions.*-> \[B\]"),
    "loss": ({"loss": 3.0}, r"apply_fn and loss must be functions"),
    "base": ({"base": 0.1}, r"the base must be an optax\.GradientTransformation, got 0\.1"),
    "base class": ({"base": optax.adam}, r"the base must be an optax.*optax\.adam\(1e-3\)"),
}


@pytest.mark.parametrize("name", CONSTRUCTION)
def test_construction(name: str) -> None:
    options, message = CONSTRUCTION[name]
    with pytest.raises(ValueError, match=message):
        make(**options)


MODELS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "form": (gt.weights.newton, {"form": "dense"}, r"Invalid form: 'dense'\. Supported: \('gram'"),
    "steps": (gt.weights.newton, {"steps": 0}, r"steps=0.*steps and inner must be >= 1"),
    "halvings": (gt.weights.newton, {"halvings": -1}, r"halvings=-1.*halvings >= 0"),
    "radius": (gt.weights.trial, {"radius": 0.0}, r"radius=0\.0.*radius and least must be > 0"),
    "shrink": (gt.weights.trial, {"shrink": 1.0}, r"shrink=1\.0.*0 < shrink < 1 <= grow"),
    "least": (gt.weights.trial, {"least": 2.0, "most": 1.0}, r"least=2\.0"),
    "calibrate": (gt.weights.tail, {"calibrate_every": 0}, r"calibrate_every >= 1"),
    "good": (gt.weights.tail, {"good": 0.5, "poor": 0.5}, r"poor < good <= 1"),
    "memory": (gt.weights.tail, {"memory": 1.0}, r"0 <= memory < 1"),
    "most": (gt.weights.tail, {"most": 0.0}, r"most > 0"),
    "cost": (gt.weights.tail, {"cost_limit": 1.1}, r"0 < cost_limit <= 1 are needed"),
    "shift": (gt.terminal.line, {"max_shift": 0.0}, r"max_shift=0\.0.*number > 0, or None"),
}


@pytest.mark.parametrize("name", MODELS)
def test_options_of_models(name: str) -> None:
    model, options, message = MODELS[name]
    with pytest.raises(ValueError, match=message):
        model(**options)


def refused(tx: Any, message: str, *, updates: Any = None, params: Any = 0, **rest: Any) -> None:
    p = models.classification()
    given = {"batch": (p.x, p.y)} | rest
    with pytest.raises(ValueError, match=message):
        state = tx.init(p.params)
        jax.eval_shape(
            lambda: tx.update(updates, state, p.params if params == 0 else params, **given)
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": None}, r"implicit: update is missing params\. Call tx\.update\(running_cost"),
        ({"batch": None}, r"update is missing batch"),
        ({"params": None, "batch": None}, r"update is missing params and batch"),
        ({"batch": jnp.ones(3)}, r"`batch` must be a pair \(inputs, targets\), got .*Array"),
        ({"batch": (1, 2, 3)}, r"must be a pair \(inputs, targets\), got tuple"),
    ],
)
def test_update(given: dict[str, Any], message: str) -> None:
    refused(make(), message, **given)


def test_losses_and_outputs() -> None:
    def mean(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return models.cross_entropy(outputs, targets).mean()

    refused(make(loss=mean), r"returned shape \(\).*one loss a sample, shape \(5,\).*no mean")
    refused(
        make(has_aux=True, aux=0.0),
        r"has_aux=True\): apply_fn must return a pair \(outputs, aux\), got",
    )


def test_multi_steps_and_masks_outside() -> None:
    zeros = jax.tree.map(jnp.zeros_like, models.mlp_params())
    for outside in (
        lambda: optax.MultiSteps(make(), 2),
        lambda: optax.chain(optax.MultiSteps(make(), 2).gradient_transformation()),
    ):
        refused(
            outside(),
            r"inside optax\.MultiSteps would see the last mini-batch only.*"
            r"gtddp_jax\.implicit\(optax\.MultiSteps\(optax\.adam\(1e-3\), 4\), apply_fn, loss\)",
            updates=zeros,
        )
    mask = {"hidden": False, "out": True}
    labels = {"hidden": "frozen", "out": "game"}
    for hidden in (
        optax.masked(make(), mask),
        optax.multi_transform({"game": make(), "frozen": optax.set_to_zero()}, labels),
    ):
        refused(
            hidden,
            r"implicit needs all parameters.*optax\.masked\(optax\.set_to_zero\(\)",
            updates=zeros,
        )


def test_freezing_parameters_as_the_message_says() -> None:
    p = models.classification()
    frozen = optax.masked(optax.set_to_zero(), {"hidden": True, "out": False})
    tx = optax.chain(make(), frozen)
    updates, _ = jax.jit(tx.update)(
        jax.tree.map(jnp.zeros_like, p.params), tx.init(p.params), p.params, batch=(p.x, p.y)
    )
    assert not updates["hidden"]["w"].any() and updates["out"]["w"].any()
