"""A joint step from rows: dense linear algebra, published recursions, and a wave function."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt

RANDOM = np.random.default_rng(0)
ROWS = {"a": RANDOM.normal(size=(5, 2, 3)), "b": RANDOM.normal(size=(5, 4))}
RIGHT = RANDOM.normal(size=5)
START = {"a": RANDOM.normal(size=(2, 3)), "b": RANDOM.normal(size=4)}
METRIC = {"a": np.full((2, 3), 0.5), "b": np.arange(1.0, 5.0)}


def dense(rows: Any, right: Any, damping: float, start: Any, metric: Any) -> np.ndarray:
    """The minimizer of `|O d - e|^2 + damping (d - d0)^T M (d - d0)` by the normal equations."""
    matrix = np.concatenate([rows["a"].reshape(len(right), -1), rows["b"]], axis=1)
    matrix, e = ((x - x.mean(0)) / np.sqrt(len(right)) for x in (matrix, right))
    diagonal, d0 = (np.asarray(ravel_pytree(tree)[0]) for tree in (metric, start))
    curvature = (matrix.conj().T @ matrix).real + damping * np.diag(diagonal)
    return d0 + np.linalg.solve(curvature, (matrix.conj().T @ (e - matrix @ d0)).real)


@pytest.mark.parametrize("kind", ["real", "complex", "complex right-hand side"])
def test_a_step_is_the_dense_one(kind: str) -> None:
    rows: Any = ROWS
    right = RIGHT if kind == "real" else RIGHT + 1j * np.arange(5.0)
    if kind == "complex":
        rows = jax.tree.map(lambda x: x * (1 + 0.5j) + 1j * x[::-1], ROWS)
    step = jax.jit(gt.step_from_rows)
    found = step(rows, right, 0.1, momentum_step=START, metric=METRIC)
    want = dense(rows, right, 0.1, START, METRIC)
    np.testing.assert_allclose(ravel_pytree(found.step)[0], want, rtol=1e-10)
    assert found.method == 0 and found.linear_residual < 1e-12
    assert jax.tree.map(jnp.shape, found.step) == jax.tree.map(jnp.shape, START)


def test_without_centering_it_is_the_step_of_residuals() -> None:
    """The formula of minSR is that of ENGD-W."""
    params = START

    def residual(params: Any, sample: Any) -> jax.Array:
        return jnp.tanh(ravel_pytree(params)[0] @ sample)

    samples = RANDOM.normal(size=(6, 10))
    tx: Any = gt.joint(residual, 1e-2, step=gt.step_control.FixedRate(1.0))
    want, _ = jax.jit(tx.update)(None, tx.init(params), params, batch=samples)

    @jax.jit
    def step(params: Any) -> gt.RowsStep:
        rows = jax.vmap(jax.grad(residual), (None, 0))(params, samples)
        values = jax.vmap(residual, (None, 0))(params, samples)
        return gt.step_from_rows(rows, -values, 1e-2, center=False)

    found = step(params)
    np.testing.assert_allclose(ravel_pytree(found.step)[0], ravel_pytree(want)[0], rtol=1e-10)


def test_spring_and_the_energy_of_the_harmonic_oscillator() -> None:
    """SPRING's recursion step for step, down to the known energy 1/2 of the ground state."""
    x = jnp.linspace(-4.0, 4.0, 81)
    mu, damping, rate = 0.9, 1e-3, 0.1

    def log_psi(params: jax.Array, x: jax.Array) -> jax.Array:
        return -params[0] * x**2 - params[1] * x**4 + params[2] * jnp.cos(x)

    def local_energy(params: jax.Array, x: jax.Array) -> jax.Array:
        slope = jax.grad(log_psi, argnums=1)
        return -0.5 * (jax.grad(slope, argnums=1)(params, x) + slope(params, x) ** 2) + 0.5 * x**2

    def sampled(params: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Rows and energies, weighted as samples of psi^2 would be, and the energy."""
        density = jnp.exp(2 * jax.vmap(log_psi, (None, 0))(params, x))
        weights = density / density.sum()
        rows = jax.vmap(jax.grad(log_psi), (None, 0))(params, x)
        energies = jax.vmap(local_energy, (None, 0))(params, x)
        energy = weights @ energies
        root = jnp.sqrt(weights * len(x))
        return root[:, None] * (rows - (weights @ rows)[None]), root * (energies - energy), energy

    @jax.jit
    def step(params: jax.Array, last: Any) -> Any:
        rows, energies, energy = sampled(params)
        found: Any = gt.step_from_rows(
            rows, -energies, damping, momentum_step=mu * last, center=False
        )
        scaled = rows / jnp.sqrt(len(x))
        gram = scaled @ scaled.T + damping * jnp.eye(len(x))
        right = -energies / jnp.sqrt(len(x)) - mu * scaled @ last
        spring = scaled.T @ jnp.linalg.solve(gram, right)
        return params + rate * found.step, found.step, spring + mu * last, energy

    params, energy = jnp.array([0.3, 0.02, 0.2]), jnp.inf
    last: Any = jnp.zeros(3)
    for _ in range(150):
        params, last, spring, energy = step(params, last)
        np.testing.assert_allclose(last, spring, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(energy, 0.5, atol=1e-6)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "lengths": ({"right_hand_side": np.ones(4)}, r"leading shapes \[\(5,\)\] and shape \(4,\)"),
    "damping": ({"damping": 0.0}, "step_from_rows.damping=0.0.: give a number > 0"),
    "momentum": (
        {"momentum_step": {"a": np.ones(2)}},
        "must be a tree like the parameters, with the arrays of rows without their first axis",
    ),
    "metric": ({"metric": ROWS}, "step_from_rows: metric must be a tree like the parameters"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case: str) -> None:
    changes, message = WRONG[case]
    given: dict[str, Any] = {"rows": ROWS, "right_hand_side": RIGHT, "damping": 0.1} | changes
    with pytest.raises(ValueError, match=message):
        gt.step_from_rows(**given)
