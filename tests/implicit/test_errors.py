"""Invalid arguments are refused with a message that lists what is supported."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

import gtddp_jax as gt
from tests.implicit import models
from tests.implicit.models import implicit

BASE = optax.sgd(0.1)


def make(**options: Any) -> Any:
    arguments = {"base": BASE, "model": models.mlp, "loss": models.cross_entropy} | options
    return implicit(**arguments)


CONSTRUCTION: dict[str, tuple[dict[str, Any], str]] = {
    "weighting": (
        {"weighting": "adam"},
        r"Invalid weighting: 'adam'\. Supported: \('sketch', 'full', 'exact'\)",
    ),
    "weighting type": ({"weighting": 3}, r"Invalid weighting: 3\. Supported: .* or an instance"),
    "weighting class": ({"weighting": gt.weighting.Full}, r"Invalid weighting: .*Supported"),
    "terminal": (
        {"terminal": "exact_loss"},
        r"terminal must come from gtddp_jax\.terminal, got 'exact_loss'",
    ),
    "bounds": ({"bounds": (1.5, 2.0)}, r"bounds=\(1\.5, 2\.0\) must be \(low <= 1, high >= 1\)"),
    "strength": ({"strength": 2.0}, r"strength=2\.0 must be in \[0, 1\]"),
    "aux": ({"has_aux": True}, r"has_aux=True\) needs aux=\.\.\., an initial value"),
    "model": ({"model": None}, r"pass a gtddp_jax\.Network or a function apply_fn.*-> \[B\]"),
    "loss": ({"loss": 3.0}, r"pass a gtddp_jax\.Network .* and a function loss"),
    "base": ({"base": 0.1}, r"the base must be an optax\.GradientTransformation, got 0\.1"),
    "base class": ({"base": optax.adam}, r"the base must be an optax.*optax\.adam\(1e-3\)"),
}


@pytest.mark.parametrize("name", CONSTRUCTION)
def test_construction(name: str) -> None:
    options, message = CONSTRUCTION[name]
    with pytest.raises(ValueError, match=message):
        make(**options)


OPTIONS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "form": (
        gt.weighting.Exact,
        {"form": "dense"},
        r"Invalid form: 'dense'\. Supported: \('gram'",
    ),
    "steps": (gt.weighting.Exact, {"steps": 0}, r"steps=0.*steps and solver_steps must be >= 1"),
    "halvings": (gt.weighting.Exact, {"halvings": -1}, r"halvings=-1.*halvings >= 0"),
    "factors": (gt.weighting.Full, {"factors": "other"}, r"Full\(factors='other'\): factors must"),
    "shift": (gt.terminal.ExactLoss, {"max_shift": 0.0}, r"max_shift=0\.0.*number > 0, or None"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_weightings(name: str) -> None:
    weighting, options, message = OPTIONS[name]
    with pytest.raises(ValueError, match=message):
        weighting(**options)


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
        ({"batch": jnp.ones((2, 3))}, r"`batch` must be a pair \(inputs, targets\), got .*Array"),
        ({"batch": (1, 2, 3)}, r"must be a pair \(inputs, targets\), got tuple"),
    ],
)
def test_update(given: dict[str, Any], message: str) -> None:
    refused(make(), message, **given)


def test_losses_and_outputs() -> None:
    def mean(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return models.cross_entropy(outputs, targets).mean()

    refused(make(loss=mean), r"returned shape \(\).*one loss per sample, shape \(5,\).*no mean")
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
            r"needs all parameters.*implicit\(optax\.chain\(base, optax\.masked\(optax\.set",
            updates=zeros,
        )


def test_freezing_parameters_as_the_message_says() -> None:
    p = models.classification()
    frozen = optax.masked(optax.set_to_zero(), {"hidden": True, "out": False})
    tx = make(base=optax.chain(BASE, frozen))
    updates, _ = jax.jit(tx.update)(
        jax.tree.map(jnp.zeros_like, p.params), tx.init(p.params), p.params, batch=(p.x, p.y)
    )
    assert not updates["hidden"]["w"].any() and updates["out"]["w"].any()


DROPPING = gt.Network([nn.Dense(4), nn.Dropout(0.5), nn.Dense(3)])
X = jnp.ones((5, 3))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Dropout(0.5), r"has nn\.Dropout, .*net\.apply\(params, x, train=True, rngs="),
        (nn.BatchNorm(), r"has nn\.BatchNorm, .*batch_stats=batch_stats, train=True"),
    ],
)
def test_networks_that_need_more_than_inputs(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(model=gt.Network([nn.Dense(4), layer, nn.Dense(3)]))


def trace_update(model: Any, inputs: Any) -> None:
    params = DROPPING.init(jax.random.key(0), X)
    tx = make(model=model, weighting="full")
    jax.eval_shape(
        lambda: tx.update(None, tx.init(params), params, batch=(inputs, jnp.zeros(5, int)))
    )


@pytest.mark.slow
def test_dropout_must_be_decided_while_training() -> None:
    """`net.apply` drops nothing by default, which must not happen silently in training."""
    for undecided in (DROPPING.apply, lambda params, x: DROPPING.apply(params, x)):
        with pytest.raises(
            ValueError, match=r"implicit: .*net\.apply drops nothing unless `train`"
        ):
            trace_update(undecided, X)

    def with_key(params: Any, inputs: Any) -> Any:
        x, key = inputs
        return DROPPING.apply(params, x, train=True, rngs={"dropout": key})

    trace_update(with_key, (X, jax.random.key(1)))
    trace_update(lambda params, x: DROPPING.apply(params, x, train=False), X)
    params = DROPPING.init(jax.random.key(0), X)
    outputs: Any = DROPPING.apply(params, X)  # evaluation, outside of the optimizer
    assert outputs.shape == (5, 3)
