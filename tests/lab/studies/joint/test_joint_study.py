"""The study of the joint game: derivatives, problems with their answers, methods, stored runs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typing_extensions import override

from gtddp_lab.studies.joint import joint_study
from gtddp_lab.studies.joint.allen_cahn import DIFFUSION, REACTION, allen_cahn_values
from gtddp_lab.studies.joint.burgers import PLACES, TIMES, VISCOSITY
from gtddp_lab.studies.joint.methods import StudiedMethod
from gtddp_lab.studies.joint.problem import ResidualProblem, cube_faces
from gtddp_lab.studies.joint.problems import (
    CASES,
    QUICK_CASES,
    StudyCase,
    decaying_rate,
    half_late_rate,
    late_rate,
)
from gtddp_lab.studies.joint.run_store import RunStore
from gtddp_lab.studies.joint.tanh_network import (
    PointDerivatives,
    init_tanh_network,
    network_value,
    point_derivatives,
)
from gtddp_lab.studies.joint.training import Moment, ResidualRun
from gtddp_lab.studies.section import StudyOptions

pytestmark = pytest.mark.usefixtures("hostile")


def test_derivatives_are_those_of_the_network() -> None:
    params = init_tanh_network(jax.random.key(0), (3, 5, 4, 1))
    x, weights = jax.random.normal(jax.random.key(1), (3,)), jnp.array([1.0, 0.0, -2.0])

    @jax.jit
    def both(x: jax.Array) -> tuple[PointDerivatives, PointDerivatives]:
        gradient = jax.grad(network_value, argnums=1)(params, x)
        second = weights @ jnp.diagonal(jax.hessian(network_value, argnums=1)(params, x))
        nested = PointDerivatives(network_value(params, x), gradient, second)
        return point_derivatives(params, x, weights), nested

    found, nested = both(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, nested)


def test_faces_are_faces() -> None:
    points = np.asarray(cube_faces(jax.random.key(0), 60, 3))
    on_face = (points == 0) | (points == 1)
    assert on_face.any(1).all()
    assert (on_face.sum(0) == 20).all()


@pytest.mark.parametrize("name", ["poisson2", "heat", "poisson5", "poisson10"])
def test_residuals_vanish_at_the_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is the solution has no residual; with its derivatives by autodiff."""
    from gtddp_lab.studies.joint import poisson

    solution = {
        "poisson2": poisson.sine_product,
        "heat": poisson.heat_solution,
        "poisson5": poisson.cosine_sum,
        "poisson10": poisson.pair_products,
    }[name]

    def derivatives(params: object, x: jax.Array, weights: jax.Array) -> PointDerivatives:
        hessian = jax.hessian(solution)(x)
        second = weights @ jnp.diagonal(hessian)
        return PointDerivatives(solution(x), jax.grad(solution)(x), second)

    monkeypatch.setattr(poisson, "point_derivatives", derivatives)
    monkeypatch.setattr(poisson, "network_value", lambda params, x: solution(x))
    problem = CASES[name].problem()
    objective = jax.jit(lambda key: problem.objective([], problem.draw(key, 1)))
    assert float(objective(jax.random.key(0))) < 1e-26


def derivative(values: np.ndarray, axis: np.ndarray, along: int, order: int) -> np.ndarray:
    """Central differences on a uniform grid, without its border."""
    step = axis[1] - axis[0]
    before, here, after = (
        np.take(values, np.arange(1, values.shape[along] - 1) + k, along) for k in (-1, 0, 1)
    )
    return (after - before) / (2 * step) if order == 1 else (after - 2 * here + before) / step**2


def test_the_reference_solution_solves_the_equation() -> None:
    """By finite differences at an early time, before there are steep gradients."""
    points, values = CASES["burgers"].problem().answer()
    u = values.reshape(len(TIMES), len(PLACES))
    np.testing.assert_allclose(points.reshape(*u.shape, 2)[3, 5], [TIMES[3], PLACES[5]])
    np.testing.assert_allclose(u[0], -np.sin(np.pi * PLACES), atol=1e-12)
    by_time = derivative(u[:6], TIMES, 0, 1)[:, 1:-1]
    by_place, second = derivative(u[1:5], PLACES, 1, 1), derivative(u[1:5], PLACES, 1, 2)
    here = u[1:5, 1:-1]
    expected = VISCOSITY * second - here * by_place
    error = np.linalg.norm(by_time - expected) / np.linalg.norm(by_time)
    assert error < 0.01


def test_the_residual_is_the_equation() -> None:
    """Against nested derivatives of the approximate answer."""
    problem = CASES["burgers"].problem()
    params = problem.init(jax.random.key(0))

    @jax.jit
    def both(point: jax.Array) -> tuple[jax.Array, jax.Array]:
        u = problem.value(params, point)
        gradient = jax.grad(problem.value, argnums=1)(params, point)
        second = jax.hessian(problem.value, argnums=1)(params, point)[1, 1]
        expected = gradient[0] + u * gradient[1] - VISCOSITY * second
        return problem.terms["equation"].residual(params, point), expected

    found, expected = both(jnp.array([0.3, -0.4]))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_spectral_solution_solves_the_equation() -> None:
    """By finite differences where it is smooth, and by halving the spacing and the time step."""
    u = allen_cahn_values(512, 200)
    np.testing.assert_allclose(u[0], PLACES**2 * np.cos(np.pi * PLACES), atol=1e-12)
    np.testing.assert_allclose(u[:, [0, -1]], -1, atol=1e-12)
    by_time = derivative(u[:6], TIMES, 0, 1)[:, 1:-1]
    second = derivative(u[1:5], PLACES, 1, 2)
    here = u[1:5, 1:-1]
    expected = DIFFUSION * second + REACTION * (here - here**3)
    assert np.linalg.norm(by_time - expected) < 0.01 * np.linalg.norm(by_time)
    assert np.linalg.norm(allen_cahn_values(1024, 400) - u) < 1e-6 * np.linalg.norm(u)


def test_the_residual_is_the_allen_cahn_equation() -> None:
    problem = CASES["allen_cahn"].problem()
    params = problem.init(jax.random.key(0))

    @jax.jit
    def both(point: jax.Array) -> tuple[jax.Array, jax.Array]:
        u = problem.value(params, point)
        by_time = jax.grad(problem.value, argnums=1)(params, point)[0]
        second = jax.hessian(problem.value, argnums=1)(params, point)[1, 1]
        expected = by_time - DIFFUSION * second - REACTION * (u - u**3)
        return problem.terms["equation"].residual(params, point), expected

    found, expected = both(jnp.array([0.3, -0.4]))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["image", "diabetes"])
def test_an_exact_fit_has_no_error(name: str) -> None:
    problem = CASES[name].problem()
    points, values = problem.answer()
    assert abs(values.mean()) < 1e-12 and points.shape == (len(values), problem.sizes[0])
    params = problem.init(jax.random.key(0))
    fitted = problem.predict(params, jnp.asarray(points))
    assert problem.relative_error(params, jnp.asarray(points), fitted) == 0
    misfit = 0.5 * jnp.square(fitted - values).mean()
    samples = problem.draw(jax.random.key(0), 1)
    np.testing.assert_allclose(problem.objective(params, samples), misfit, rtol=1e-12)


def test_a_part_of_the_samples_can_be_drawn() -> None:
    samples = CASES["poisson5"].problem().draw(jax.random.key(0), 0.25)
    assert {name: len(points) for name, points in samples.items()} == {
        "equation": 750,
        "boundary": 125,
    }


def small_case(seconds: float) -> StudyCase:
    return dataclasses.replace(QUICK_CASES["poisson2"], seconds=seconds)


class RecordingStore(RunStore):
    """Remembers what would be trained; the first setting is the best."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, float, int]] = []

    @override
    def run(
        self,
        name: str,
        problem: ResidualProblem,
        method: StudiedMethod,
        seed: int,
        seconds: float,
        least_steps: int = 0,
    ) -> ResidualRun:
        self.asked.append((method.family, seed, seconds, least_steps))
        return ResidualRun([Moment(7, 1.0, float(len(self.asked)), 1.0)], np.zeros(1))


@pytest.mark.parametrize(
    ("name", "seeds", "expected"),
    [
        ("poisson10_steps", 3, [("SPRING", 0, 0.0, 491), ("joint game", 0, 0.0, 491)]),
        ("burgers_steps", 2, [("joint game", 0, 0.0, 1000)]),
        ("allen_cahn_steps", 1, [("joint game", 0, 0.0, 300)]),
    ],
)
def test_runs_of_a_number_of_steps(name: str, seeds: int, expected: list[Any]) -> None:
    """No time, no comparison of settings, and no more seeds than the case allows."""
    store, case = RecordingStore(), CASES[name]
    joint_study._run_case(name, case, case.problem(), store, seeds)
    assert store.asked == expected


def test_settings_are_compared_at_equal_time() -> None:
    store, case = RecordingStore(), CASES["heat"]
    found = joint_study._run_case("heat", case, case.problem(), store, 5)
    tuned = [asked for asked in store.asked if asked[1] == joint_study.TUNING_SEED]
    assert len(tuned) == 3 + 3 + 2 and {asked[2:] for asked in store.asked} == {(20.0, 0)}
    assert {family: len(result.runs) for family, result in found.items()} == {
        "Adam": 3,
        "SOAP": 3,
        "L-BFGS": 3,
        "joint game": 3,
    }


def test_the_rates_of_many_steps() -> None:
    """A line search in the first steps, then rates that go on from there."""
    rates = [float(decaying_rate(jnp.int32(count))) for count in (0, 10, 481)]
    np.testing.assert_allclose(rates, [5 / 15, 5 / 25, 5 / 496])
    np.testing.assert_allclose([float(late_rate(jnp.int32(n))) for n in (0, 10)], [1, 0.5])
    np.testing.assert_allclose([float(half_late_rate(jnp.int32(n))) for n in (0, 10)], [0.5, 0.25])


@pytest.mark.slow
def test_quick_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, numbers and pictures; a second call reads what the first one stored."""
    monkeypatch.setattr(joint_study, "QUICK_CASES", {"poisson2": small_case(1.5)})
    progress: list[str] = []
    options = StudyOptions(out=tmp_path, seeds=2, quick=True, say=progress.append)
    section = joint_study.study_joint(options)
    assert len(progress) == 4
    again = joint_study.study_joint(options)
    assert len(progress) == 4 and again.data == section.data
    families = section.data["problems"]["poisson2"]
    assert set(families) == {"Adam", "SOAP", "L-BFGS", "joint game"}
    for family in families.values():
        course = family["runs"][0]
        assert course["error"][-1] < course["error"][0]
        assert course["step"] == sorted(course["step"])
    json.dumps(section.data, allow_nan=False)
    for picture in section.pictures:
        assert (tmp_path / picture).stat().st_size > 1000
    assert "](joint.png)" in section.text and "](joint_answers.png)" in section.text


@pytest.mark.slow
def test_broken_files_are_trained_again(tmp_path: Path) -> None:
    case = small_case(0.05)
    problem, method = case.problem(), case.methods[0]
    progress: list[str] = []
    store = RunStore(tmp_path, progress.append)
    store.run("small", problem, method, 0, 0.05)
    (file,) = tmp_path.glob("joint-*.json")
    file.write_text('{"moments": 3}')
    run = store.run("small", problem, method, 0, 0.05)
    assert len(progress) == 2 and run.moments[-1].seconds >= 0.05
