"""The terminal models, without a game: their bounds, their curvature and their derivatives."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.sequential import zoo

SHIFTS = jnp.array([-0.3, 0.0, 0.2, 1.5])
MODELS = {name: model() for name, model in gt.terminal.TERMINALS.items()} | {
    "bounded": gt.terminal.ExactLoss(max_shift=0.5, bounds=(0.5, 1.05)),
}


def expand(
    name: str, terminal: gt.terminal.TerminalModel
) -> tuple[zoo.Problem, jax.Array, gt.terminal.TerminalExpansion]:
    """Expands a model on four samples; the loss `welsch` has curvature of both signs there."""
    problem = zoo.problem("small", batch=4, seed=3)
    outputs: Any = problem.net.apply(problem.params, problem.x)
    return problem, outputs, terminal.expand(lambda o: zoo.LOSSES[name](o, problem.y), outputs)


def test_the_bound_is_in_units_of_the_outputs() -> None:
    """psi'(s) moves the outputs by s g / |g|^2, of length |s| / |g|; `max_shift` bounds that."""
    outputs, y = jnp.array([[3.0, 0.0], [0.0, 0.2]]), jnp.zeros((2, 2))
    model = gt.terminal.ExactLoss(max_shift=0.5).expand(
        lambda o: zoo.LOSSES["pseudo_huber"](o, y), outputs
    )

    def derivative(at: float) -> float:
        return float(at / jnp.sqrt(1 + 4 * at**2))

    far = model.derivative(jnp.array([-100.0, 100.0]))
    assert far[0] == pytest.approx(derivative(2.5) / derivative(3.0), rel=1e-12)
    assert far[1] == pytest.approx(derivative(0.7) / derivative(0.2), rel=1e-12)


def test_negative_curvature_is_treated_as_zero() -> None:
    """The loss `welsch` has negative curvature far from its minimum; h = 0 there."""
    for terminal in (gt.terminal.ProjectedHessian(), gt.terminal.ExactLoss()):
        problem, outputs, expansion = expand("welsch", terminal)
        curvatures = []
        for output, y in zip(outputs, problem.y, strict=True):

            def loss(output: jax.Array, y: jax.Array = y) -> jax.Array:
                return zoo.LOSSES["welsch"](output[None], y[None])[0]

            g = jax.grad(loss)(output)
            curvatures.append(float(g @ jax.hessian(loss)(output) @ g / (g @ g) ** 2))
        assert min(curvatures) < -0.1 and max(curvatures) > 0.1
        np.testing.assert_allclose(expansion.curvature, np.maximum(curvatures, 0), rtol=1e-9)


@pytest.mark.parametrize("loss", quick_cases(["softmax", "welsch"]))
@pytest.mark.parametrize("name", quick_cases(MODELS))
def test_derivatives_are_those_of_the_loss_change(name: str, loss: str) -> None:
    _, _, expansion = expand(loss, MODELS[name])
    ones = jnp.ones_like(SHIFTS)
    derivative, second_derivative = expansion.first_two_derivatives(SHIFTS)
    _, expected_second = jax.jvp(expansion.derivative, (SHIFTS,), (ones,))
    chex.assert_trees_all_close(derivative, expansion.derivative(SHIFTS), rtol=1e-12)
    chex.assert_trees_all_close(second_derivative, expected_second, rtol=1e-9, atol=1e-12)
    zero = jnp.zeros_like(SHIFTS)
    chex.assert_trees_all_equal(expansion.loss_change(zero), zero)
    chex.assert_trees_all_close(expansion.derivative(zero), ones, rtol=1e-12)
    if expansion.bounds is None:
        _, expected = jax.jvp(expansion.loss_change, (SHIFTS * 0.1,), (ones,))
        chex.assert_trees_all_close(expansion.derivative(SHIFTS * 0.1), expected, rtol=1e-9)
