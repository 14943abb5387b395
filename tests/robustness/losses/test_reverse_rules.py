"""Functions with a reverse rule only (`jax.custom_vjp`) work like those with both."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.core.reverse_rules import custom_vjp_names, directional_derivative
from tests.robustness.losses import problems
from tests.robustness.losses.problems import BASE, CROSS_ENTROPY, gtddp, implicit

X, LABELS = problems.inputs()


@jax.custom_vjp
def rounded(x: jax.Array) -> jax.Array:
    """A straight-through estimator."""
    return jnp.round(2 * x) / 2


rounded.defvjp(lambda x: (rounded(x), None), lambda residuals, g: (g,))


def rounded_by_stop_gradient(x: jax.Array) -> jax.Array:
    return x + jax.lax.stop_gradient(jnp.round(2 * x) / 2 - x)


@jax.custom_vjp
def fused(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """A cross entropy with its own backward pass, which calls itself in its forward pass."""
    return CROSS_ENTROPY(logits, labels)


def fused_forward(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
    return fused(logits, labels), (jax.nn.softmax(logits), labels)


def fused_backward(residuals: Any, g: jax.Array) -> tuple[jax.Array, None]:
    probabilities, labels = residuals
    return (probabilities - jax.nn.one_hot(labels, probabilities.shape[-1])) * g[:, None], None


fused.defvjp(fused_forward, fused_backward)


@jax.custom_vjp
def opaque(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The same, with a backward pass that JAX cannot differentiate."""
    return CROSS_ENTROPY(logits, labels)


def opaque_backward(residuals: Any, g: jax.Array) -> tuple[jax.Array, None]:
    probabilities, labels = residuals

    def gradient(probabilities: Any, labels: Any, g: Any) -> np.ndarray:
        return (probabilities - np.eye(probabilities.shape[-1])[labels]) * np.asarray(g)[:, None]

    shape = jax.ShapeDtypeStruct(probabilities.shape, probabilities.dtype)
    return jax.pure_callback(gradient, shape, probabilities, labels, g), None


opaque.defvjp(
    lambda logits, labels: (CROSS_ENTROPY(logits, labels), (jax.nn.softmax(logits), labels)),
    opaque_backward,
)


@pytest.mark.parametrize("weighting", problems.WEIGHTINGS)
def test_models(weighting: str) -> None:
    def model(rounding: Any) -> Any:
        return lambda p, x: rounding(jnp.tanh(x @ p["hidden"])) @ p["out"]

    games = [
        implicit(BASE, model(rounding), CROSS_ENTROPY, weighting=weighting)
        for rounding in (rounded, rounded_by_stop_gradient)
    ]
    params = problems.mlp_params()
    problems.assert_same_game(*(problems.run(tx, params, (X, LABELS)) for tx in games))


@pytest.mark.parametrize("weighting", problems.WEIGHTINGS)
def test_losses(weighting: str) -> None:
    games = [
        implicit(BASE, problems.mlp, loss, weighting=weighting) for loss in (fused, CROSS_ENTROPY)
    ]
    params = problems.mlp_params()
    problems.assert_same_game(*(problems.run(tx, params, (X, LABELS)) for tx in games))


class Quantized(nn.Module):
    """A dense layer with rounded weights."""

    rounding: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 4))
        return x @ self.rounding(kernel)


class QuantizedModel(nn.Module):
    """Rounded states and rounded weights."""

    rounding: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.rounding(jnp.tanh(nn.Dense(5)(x)))
        return Quantized(self.rounding)(x)


@pytest.mark.parametrize("kind", ["stages", "traced"])
@pytest.mark.parametrize("keep", [True, False])
def test_the_sequential_game(kind: str, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers with a reverse rule only, with per-sample gradients stored and computed again."""
    if not keep:
        monkeypatch.setattr("gtddp_jax.network.sample_gradients.layer_rules.ALWAYS_KEPT", 0)
        monkeypatch.setattr("gtddp_jax.tracing.player_gradients.ALWAYS_KEPT", 0)
    games = []
    for rounding, loss in ((rounded, fused), (rounded_by_stop_gradient, CROSS_ENTROPY)):
        net: Any = gt.Network([nn.Dense(5), jnp.tanh, rounding, Quantized(rounding)])
        if kind == "traced":
            net = gt.from_flax(QuantizedModel(rounding), X)
        tx = gtddp(net, loss, gt.curvature.SGD(0.5))
        params = problems.network_params(net, X)
        games.append(problems.run(tx, params, (X, LABELS), steps=1))
    problems.assert_same_game(*games)


@pytest.mark.slow
def test_the_base_alone_asks_for_first_derivatives_only() -> None:
    net = problems.network()
    params = problems.network_params(net, X)
    gradient = jax.grad(lambda params: CROSS_ENTROPY(net.apply(params, X), LABELS).mean())(params)
    terminals = [terminal() for terminal in gt.terminal.TERMINALS.values()]
    games: list[tuple[Any, optax.GradientTransformation]] = [
        (implicit(BASE, net, opaque, strength=0.0), BASE),
        (implicit(BASE, net.apply, opaque, weighting="full", strength=0), BASE),
        *(
            (
                gtddp(
                    net, opaque, gt.curvature.SGD(0.5), equilibrium="open_loop", terminal=terminal
                ),
                optax.sgd(0.5),
            )
            for terminal in terminals
        ),
    ]
    for tx, base in games:
        updates, _ = tx.update(None, tx.init(params), params, batch=(X, LABELS))
        want, _ = base.update(gradient, base.init(params))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), updates, want)


def test_a_loss_without_a_second_derivative_is_named() -> None:
    net = problems.network()
    params = problems.network_params(net, X)
    for tx in (
        implicit(BASE, net.apply, opaque, weighting="full"),
        implicit(BASE, net, jax.jit(opaque)),
        gtddp(net, opaque, gt.curvature.SGD(0.5)),
    ):
        message = (
            "cannot be differentiated twice.*opaque, a jax.custom_vjp.*strength=0.0.*equilibrium"
        )
        with pytest.raises(ValueError, match=message):
            problems.trace(tx, params, (X, LABELS))
    # The paper's model needs no second derivative.
    terminal = gt.terminal.GradientHessian()
    problems.trace(
        gtddp(net, opaque, gt.curvature.SGD(0.5), terminal=terminal), params, (X, LABELS)
    )


def test_directional_derivatives() -> None:
    """Inside other functions, in a scan, and without any reverse rule."""

    def nested(x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
        carry, outputs = jax.lax.scan(lambda c, v: (rounded(c * v), jnp.sin(c)), y, x)
        return {"carry": carry, "outputs": outputs}

    def plain(x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
        carry, outputs = jax.lax.scan(
            lambda c, v: (rounded_by_stop_gradient(c * v), jnp.sin(c)), y, x
        )
        return {"carry": carry, "outputs": outputs}

    primals = (jnp.array([1.1, 0.7, 2.0]), jnp.array(3.0))
    tangents = (jnp.array([0.3, -1.0, 0.5]), jnp.array(2.0))
    assert custom_vjp_names(jax.jit(nested), *primals) == ["rounded"]
    assert custom_vjp_names(plain, *primals) == []
    want = jax.jvp(plain, primals, tangents)[1]
    for function in (nested, jax.jit(nested), plain):
        got = directional_derivative(function, primals, tangents)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), got, want)
