"""Methods of the study that are written there: SOAP; and optimistix' Levenberg-Marquardt."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_lab.studies.joint import joint_study, marquardt
from gtddp_lab.studies.joint.problems import CASES, QUICK_CASES
from gtddp_lab.studies.joint.soap import scale_by_soap
from gtddp_lab.studies.section import StudyOptions

pytestmark = pytest.mark.usefixtures("hostile")

B1, B2, EVERY = 0.9, 0.8, 2


def literal_soap(gradients: list[np.ndarray]) -> list[np.ndarray]:
    """Algorithm 3 of Vyas et al. 2024 for one matrix, with eigenvectors in falling order."""
    rows, columns = gradients[0].shape
    left, right = np.zeros((rows, rows)), np.zeros((columns, columns))
    mean, square = np.zeros((rows, columns)), np.zeros((rows, columns))
    u, v, steps = np.eye(rows), np.eye(columns), []
    for t, g in enumerate(gradients):
        if t == 0:
            steps.append(np.zeros_like(g))
        else:
            mean = B1 * mean + (1 - B1) * g
            square = B2 * square + (1 - B2) * (u.T @ g @ v) ** 2
            scaled = (u.T @ mean @ v / (1 - B1**t)) / (np.sqrt(square / (1 - B2**t)) + 1e-8)
            steps.append(u @ scaled @ v.T)
        left, right = B2 * left + (1 - B2) * g @ g.T, B2 * right + (1 - B2) * g.T @ g
        if t == 0:
            u, v = np.linalg.eigh(left)[1][:, ::-1], np.linalg.eigh(right)[1][:, ::-1]
        elif t % EVERY == 0:
            by_row = np.argsort(-np.diag(u.T @ left @ u))
            by_column = np.argsort(-np.diag(v.T @ right @ v))
            square = square[by_row][:, by_column]
            u = np.linalg.qr(left @ u[:, by_row])[0]
            v = np.linalg.qr(right @ v[:, by_column])[0]
    return steps


def test_soap_step_for_step() -> None:
    draw = np.random.default_rng(0)
    matrices = [draw.normal(size=(3, 4)) for _ in range(7)]
    vectors = [draw.normal(size=3) for _ in range(7)]
    tx = scale_by_soap(B1, B2, EVERY)
    state, update = tx.init([matrices[0], vectors[0]]), jax.jit(tx.update)
    mean = square = np.zeros(3)
    for t, (matrix, want) in enumerate(zip(matrices, literal_soap(matrices), strict=True)):
        (step, bias_step), state = update([matrix, vectors[t]], state)
        np.testing.assert_allclose(step, want, rtol=1e-9, atol=1e-12)
        if t:
            mean = B1 * mean + (1 - B1) * vectors[t]
            square = B2 * square + (1 - B2) * vectors[t] ** 2
            adam = mean / (1 - B1**t) / (np.sqrt(square / (1 - B2**t)) + 1e-8)
            np.testing.assert_allclose(bias_step, adam, rtol=1e-10)


@pytest.mark.slow
def test_levenberg_marquardt_lowers_the_objective_of_all() -> None:
    pytest.importorskip("optimistix")
    problem = QUICK_CASES["poisson2"].problem()
    samples = problem.draw(jax.random.key(1), 1)
    init, advance = marquardt.marquardt_method(1).make(problem, jnp.int32(1))
    params = problem.init(jax.random.key(0))
    state, step = jax.jit(init)(params), jax.jit(advance)
    before = problem.objective(params, samples)
    for _ in range(4):
        params, state = step(params, state, samples)
    assert problem.objective(params, samples) < 0.9 * before


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    said: list[str] = []
    options = StudyOptions(out=tmp_path, seeds=1, quick=False, say=said.append)
    monkeypatch.setattr(joint_study, "has_optimistix", lambda: False)
    cases = joint_study._possible_cases(CASES, options)
    (message,) = said
    assert "optimistix is not installed" in message
    families = {method.family for case in cases.values() for method in case.methods}
    assert marquardt.OPTIMISTIX not in families and "SOAP" in families
    monkeypatch.setattr(joint_study, "has_optimistix", lambda: True)
    kept = joint_study._possible_cases(CASES, options)
    assert kept == dict(CASES) and len(said) == 1
    assert dataclasses.is_dataclass(kept["burgers"])
