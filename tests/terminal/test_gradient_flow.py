"""Weights by gradient flow, against closed forms and a fine integration."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gtddp_jax.terminal import ExactLoss
from gtddp_jax.terminal.base import TerminalExpansion
from gtddp_jax.terminal.gradient_flow import integrate_sample_weights

LABELS = np.array([0, 1, 2, 0, 1])


def softmax_expansion() -> TerminalExpansion:
    outputs = jnp.asarray(0.5 * np.random.default_rng(0).standard_normal((5, 3)))
    return ExactLoss(max_shift=None).expand(
        lambda o: optax.softmax_cross_entropy_with_integer_labels(o, LABELS), outputs
    )


def quadratic_expansion() -> TerminalExpansion:
    outputs = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3)))
    return ExactLoss(max_shift=None).expand(lambda o: jnp.square(o).sum(1), outputs)


@pytest.mark.parametrize("x", [0.0, 1e-6, 0.3, 4.0, 80.0])
def test_parabola_has_its_closed_form(x: float) -> None:
    expansion = quadratic_expansion()
    n = x / expansion.curvature
    shift = 0.2 / expansion.curvature
    # psi'(s) = 1.2 at the start, and decays with exp(-x tau).
    expected = 1.2 * (-math.expm1(-x) / x if x else 1.0)
    weights = integrate_sample_weights(expansion, shift, n, None)
    chex.assert_trees_all_close(weights, jnp.full(5, expected), rtol=1e-9)


# The intervals follow the flow with these errors; nothing else separates the two.
@pytest.mark.parametrize(
    ("x", "tolerance"), [(0.3, 0.003), (1.0, 0.004), (3.0, 0.004), (10.0, 0.05)]
)
def test_weights_follow_the_flow_of_a_softmax(x: float, tolerance: float) -> None:
    expansion = softmax_expansion()
    n, start = x / expansion.curvature, 0.1 * jnp.ones(5)
    steps = 4000

    def advance(shift: jax.Array, _: None) -> tuple[jax.Array, None]:
        middle = shift - 0.5 * n / steps * expansion.derivative(shift)
        return shift - n / steps * expansion.derivative(middle), None

    end, _ = jax.lax.scan(advance, start, None, length=steps)
    weights = integrate_sample_weights(expansion, start, n, None)
    chex.assert_trees_all_close(weights, (start - end) / n, rtol=tolerance)


def test_samples_that_others_raise_have_the_mean_slope() -> None:
    expansion = softmax_expansion()
    n = -jnp.linspace(0.1, 0.5, 5)
    expected = expansion.loss_change(-n) / -n
    weights = integrate_sample_weights(expansion, jnp.zeros(5), n, None)
    chex.assert_trees_all_close(weights, expected, rtol=2e-3)
    assert jnp.all(weights > 1)


def test_weights_stay_within_bounds() -> None:
    n = jnp.array([-50.0, 0.0, 1.0, 50.0, 500.0])
    weights = integrate_sample_weights(softmax_expansion(), jnp.zeros(5), n, (0.1, 1.4))
    assert weights.min() == 0.1
    assert weights.max() == 1.4


def test_samples_without_curvature_keep_a_weight_of_one() -> None:
    expansion = ExactLoss(max_shift=None).expand(
        lambda o: jnp.where(jnp.arange(5) < 4, o.sum(1), jnp.square(o).sum(1)), jnp.ones((5, 3))
    )
    weights = integrate_sample_weights(expansion, jnp.zeros(5), jnp.arange(5.0) - 1, None)
    chex.assert_trees_all_close(weights[:4], jnp.ones(4), rtol=1e-12)
    assert weights[4] < 1
