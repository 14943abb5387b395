"""Damping, step lengths, safety, composition and messages of the joint game."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.joint.problems import PARAMS, problems

SQUARED = problems()["squared"]
control, damping = gt.step_control, gt.damping


def train(tx: Any, steps: int, params: Any = PARAMS, batch: Any = SQUARED.batch) -> Any:
    @jax.jit
    def run(params: Any) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = tx.update(None, state, params, batch=batch)
            return (optax.apply_updates(params, updates), state), state.report

        return jax.lax.scan(step, (params, tx.init(params)), None, length=steps)

    return run(params)


def test_the_defaults_solve_a_small_problem() -> None:
    (_, state), reports = train(gt.joint(SQUARED.terms), 30)
    assert reports.loss[-1] < 1e-8 * reports.loss[0]
    assert not reports.skipped.any() and state.step == 30


def test_a_line_search_never_raises_the_objective() -> None:
    _, reports = train(gt.joint(SQUARED.terms, 1e-9), 12)
    assert (reports.actual_change <= 0).all()
    powers = np.log2(reports.step_length[reports.step_length > 0])
    np.testing.assert_allclose(powers, np.round(powers))


def test_levenberg_marquardt_keeps_to_its_floor() -> None:
    rule = damping.LevenbergMarquardt(initial=1e-2, floor=1e-4)
    (_, state), reports = train(gt.joint(SQUARED.terms, rule), 20)
    assert state.damping == jnp.float32(1e-4)
    assert (reports.damping >= 0.99e-4 * reports.largest_eigenvalue).all()


@pytest.mark.parametrize(
    ("factor", "floor", "want"), [(0.5, 0.0, 0.5 * 4.5), (0.5, 1.0, 9.0), (1e-5, None, 4.5e-5)]
)
def test_the_damping_follows_the_objective(factor: float, floor: float, want: float) -> None:
    """The residual 3 w at w = 1 has the objective 4.5 and the curvature 9."""
    tx: Any = gt.joint(lambda w, _: 3 * w, damping.LossDamping(factor, floor))
    w = jnp.array(1.0)
    updates, state = jax.jit(tx.update)(None, tx.init(w), w, batch=jnp.zeros(1))
    np.testing.assert_allclose(state.report.damping, want, rtol=1e-6)
    np.testing.assert_allclose(updates, -9 / (9 + want), rtol=1e-6)


@pytest.mark.slow
def test_a_factor_on_the_residuals_changes_no_step() -> None:
    terms = {
        factor: {"fit": gt.Term(lambda p, x, f=factor: f * interior(p, x))} for factor in (1, 1e3)
    }
    batch = {"fit": SQUARED.batch["pde"]}
    steps = [
        jax.jit(tx.update)(None, tx.init(PARAMS), PARAMS, batch=batch)[0]
        for tx in (gt.joint(found, damping.LossDamping(1e-2)) for found in terms.values())
    ]
    chex.assert_trees_all_close(*steps, rtol=1e-9)


def test_a_poor_step_raises_the_damping() -> None:
    """The full Gauss-Newton step for arctan overshoots from 3 to -9.5."""
    rule = damping.LevenbergMarquardt(initial=1e-6)
    tx: Any = gt.joint(lambda w, _: jnp.arctan(w), rule, step=control.FixedRate(1.0))
    w = jnp.array(3.0)
    updates, state = jax.jit(tx.update)(None, tx.init(w), w, batch=jnp.zeros(1))
    np.testing.assert_allclose(w + updates, 3 - 10 * jnp.arctan(3.0), rtol=1e-4)
    np.testing.assert_allclose(state.damping, 3e-6, rtol=1e-6)
    assert state.report.gain_ratio < 0 < state.report.actual_change


def test_a_rejected_step_raises_the_damping() -> None:
    rule = damping.LevenbergMarquardt(initial=1e-6)
    step = control.LineSearch(halvings=0)
    tx: Any = gt.joint(lambda w, _: jnp.arctan(w), rule, step=step)
    w = jnp.array(3.0)
    updates, state = jax.jit(tx.update)(None, tx.init(w), w, batch=jnp.zeros(1))
    assert updates == 0 and state.report.gain_ratio == 0
    np.testing.assert_allclose(state.damping, 3e-6, rtol=1e-6)


@pytest.mark.slow
def test_the_gain_ratio_is_judged_on_a_validation_batch() -> None:
    tx: Any = gt.joint(SQUARED.terms, 1e-6)
    other = jax.tree.map(lambda x: x + 0.5, SQUARED.batch)
    update = jax.jit(tx.update)
    plain = update(None, tx.init(PARAMS), PARAMS, batch=SQUARED.batch)
    judged = update(None, tx.init(PARAMS), PARAMS, batch=SQUARED.batch, validation_batch=other)
    chex.assert_trees_all_equal(plain[0], judged[0])
    assert plain[1].report.gain_ratio != judged[1].report.gain_ratio


def test_a_switch_of_rules() -> None:
    """The schedule of the second rule starts with the switch."""
    then = control.FixedRate(lambda count: 0.125 / (1 + count))
    rule = control.SwitchStep(control.LineSearch(), then, at=2)
    _, reports = train(gt.joint(SQUARED.terms, 1e-3, step=rule), 4)
    np.testing.assert_array_equal(reports.step_length[2:], [0.125, 0.0625])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_step_that_is_not_finite_is_skipped(bad: float) -> None:
    x, y = SQUARED.batch["boundary"]
    batch = SQUARED.batch | {"boundary": (x, np.where(np.arange(3) == 0, bad, y))}
    tx: Any = gt.joint(SQUARED.terms, momentum=0.5)
    before = tx.init(PARAMS)
    updates, state = jax.jit(tx.update)(None, before, PARAMS, batch=batch)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    chex.assert_trees_all_equal(state.previous_step, before.previous_step)
    assert state.report.skipped and state.report.skipped_steps == 1


def test_repeated_samples_are_no_obstacle() -> None:
    """Their rows are linearly dependent; without damping the Gram matrix is singular."""
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x, x]), SQUARED.batch)
    tx: Any = gt.joint(SQUARED.terms, 1e-30, step=control.FixedRate(1.0))
    updates, state = jax.jit(tx.update)(None, tx.init(PARAMS), PARAMS, batch=batch)
    chex.assert_tree_all_finite(updates)
    assert not state.report.skipped
    assert state.report.method == 1 and state.report.rank < 39


def test_float32_without_x64() -> None:
    with jax.enable_x64(False):
        params = jax.tree.map(lambda p: p.astype(jnp.float32), PARAMS)
        batch = jax.tree.map(lambda x: x.astype(jnp.float32), SQUARED.batch)
        (after, _), reports = train(gt.joint(SQUARED.terms), 30, params, batch)
    assert after["bias"].dtype == jnp.float32
    assert reports.loss[-1] < 1e-5 * reports.loss[0]


def test_state_keeps_its_structure_and_composes() -> None:
    tx = optax.chain(
        gt.joint(SQUARED.terms, momentum=0.9, metric=gt.metrics.AdamMetric()), optax.scale(0.5)
    )
    state: Any = tx.init(PARAMS)
    step = jax.jit(chex.assert_max_traces(tx.update, 1))
    for _ in range(2):
        _, after = step(None, state, PARAMS, batch=SQUARED.batch)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
        state = after
    assert all(jnp.size(leaf) for leaf in jax.tree.leaves(state))


@pytest.mark.slow
def test_the_small_side_is_chosen_within_the_memory_limit() -> None:
    def method(batch: Any, **options: Any) -> int:
        tx: Any = gt.joint(SQUARED.terms, 1e-3, **options)
        return int(jax.jit(tx.update)(None, tx.init(PARAMS), PARAMS, batch=batch)[1].report.rank)

    assert method(SQUARED.batch) == 13
    many = jax.tree.map(lambda x: jnp.concatenate([x, x + 0.1, x - 0.1]), SQUARED.batch)
    assert method(many) == 24
    tx: Any = gt.joint(SQUARED.terms, 1e-3, memory_limit=1000)
    with pytest.warns(gt.GameWarning, match=r"13 unknowns .* memory_limit=1.0e\+03.*side='matrix"):
        _, state = jax.jit(tx.update)(None, tx.init(PARAMS), PARAMS, batch=SQUARED.batch)
    assert state.report.method == 2


def interior(params: Any, x: jax.Array) -> jax.Array:
    return SQUARED.terms["pde"].residual(params, x)


UNKNOWN: Any = [interior]
ARGUMENTS: dict[str, tuple[Any, str]] = {
    "no terms": (lambda: gt.joint({}), "non-empty dict"),
    "terms": (lambda: gt.joint(UNKNOWN), "non-empty dict"),
    "residual": (lambda: gt.Term(UNKNOWN), r"give a function residual\(params, sample\)"),
    "loss": (lambda: gt.Term(interior, loss=UNKNOWN), r"loss\(outputs, sample\)"),
    "weight": (lambda: gt.Term(interior, weight=-1.0), "weight=-1.0.*> 0"),
    "damping": (lambda: gt.joint(interior, damping=0.0), r"damping=0\.0.*> 0"),
    "damping type": (lambda: gt.joint(interior, damping=UNKNOWN), "rule from gtddp_jax.damping"),
    "ratio": (lambda: damping.RelativeDamping(0.0), "ratio=0.0"),
    "factor": (lambda: damping.LossDamping(0.0), "factor=0.0"),
    "floor": (lambda: damping.LossDamping(floor=-1.0), "floor=-1.0.*floor >= 0"),
    "acceleration": (lambda: gt.joint(interior, acceleration=0), r"acceleration=0\).*number > 0"),
    "marquardt": (lambda: damping.LevenbergMarquardt(floor=1.0), "floor <= initial"),
    "momentum": (lambda: gt.joint(interior, momentum=1.0), r"momentum=1\.0.*\[0, 1\)"),
    "metric": (lambda: gt.joint(interior, metric=UNKNOWN), "gtddp_jax.metrics"),
    "step": (lambda: gt.joint(interior, step=UNKNOWN), "gtddp_jax.step_control"),
    "halvings": (lambda: control.LineSearch(-1), "halvings must be an int >= 0"),
    "side": (lambda: gt.joint(interior, side="left"), "invalid side: 'left'"),
    "chunk": (lambda: gt.joint(interior, chunk=0), "chunk=0.*int >= 1"),
    "newton": (lambda: gt.joint(interior, newton_steps=0), "newton_steps=0.*int >= 1"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments_are_named(case: str) -> None:
    make, message = ARGUMENTS[case]
    with pytest.raises(ValueError, match=message):
        make()


CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "no batch": ({"batch": None}, "missing batch"),
    "other names": ({"batch": {"pde": SQUARED.batch["pde"]}}, "exactly the terms"),
    "no samples": (
        {"batch": SQUARED.batch | {"pde": jnp.zeros((0, 2))}},
        "term 'pde' has no samples",
    ),
    "lengths": (
        {"batch": SQUARED.batch | {"boundary": (jnp.zeros((3, 2)), jnp.zeros(4))}},
        "with one N",
    ),
    "no params": ({"params": None}, "missing params"),
    "integers": ({"params": {"bias": jnp.arange(3)}}, "real floating-point numbers, got int"),
    "updates": ({"updates": {"a": jnp.ones(2)}}, "updates must be the gradient of a running cost"),
}


@pytest.mark.parametrize("case", CALLS)
def test_wrong_calls_are_named(case: str) -> None:
    given, message = CALLS[case]
    tx: Any = gt.joint(SQUARED.terms)
    call = {"updates": None, "params": PARAMS, "batch": SQUARED.batch} | given
    with pytest.raises(ValueError, match=message):
        tx.update(call.pop("updates"), tx.init(PARAMS), call.pop("params"), **call)


def test_complex_residuals_are_refused() -> None:
    tx: Any = gt.joint(lambda params, x: interior(params, x) + 1j)
    with pytest.raises(ValueError, match="real and imaginary parts"):
        tx.update(None, tx.init(PARAMS), PARAMS, batch=SQUARED.batch["pde"])
