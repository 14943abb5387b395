"""Predictions, calibrations and trust of `Tail` equal their formulas."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.implicit import dense, models
from tests.implicit.dense import Vector, compiled
from tests.implicit.models import implicit, implicit_weights

Tree = Any
EVERYTHING = {"hidden": True, "out": True}
OUT = {"hidden": False, "out": True}
OUT_LEAVES = {"hidden": {"w": 0.0, "b": 0.0}, "out": {"w": 1.0, "b": 1.0}}


def calibrates(step: int, every: int) -> bool:
    return step in (0, 1, 2, 4, 8, 16) or step % every == 0


class Calibration(NamedTuple):
    """kappa, the same ratio for the momentum step, and the adjusted correlation."""

    kappa: float
    kappa_momentum: float
    correlation: float


def calibration(losses: dense.Losses, base: dense.Base, w: Vector, only: Vector) -> Calibration:
    """Regressions through the origin, along the step that was taken."""
    momentum_step, response = base.split(losses.mean_gradient(w))
    n, n_tail = -losses.big_g @ response, -losses.big_g @ (only * response)
    s0, s_tail = losses.big_g @ momentum_step, losses.big_g @ (only * momentum_step)
    kappa_momentum = s0 @ s_tail / (s_tail @ s_tail) if s_tail.any() else 0.0
    r, degrees_of_freedom = np.corrcoef(n, n_tail)[0, 1], losses.batch - 2
    explained = 1 - (1 - r**2) * (losses.batch - 1) / degrees_of_freedom
    return Calibration(
        float(np.clip(n @ n_tail / (n_tail @ n_tail), 0, 100)),
        float(np.clip(kappa_momentum, 0, 100)),
        float(np.sign(r) * np.sqrt(max(explained, 0.0))),
    )


class Run:
    """A transformation step by step; gives the formulas what they need before each step."""

    def __init__(self, p: dense.Problem, base: Any, **options: Any):
        self.p, self.base = p, base
        tx = implicit(base, p.apply_fn, p.loss, **options)
        look = implicit_weights(base, p.apply_fn, p.loss, **options)
        self.params, self.state = p.params, tx.init(p.params)

        @compiled
        def step(params: Tree, state: Any) -> tuple[jax.Array, Tree, Any]:
            w = look(state, params, (p.x, p.y))
            updates, state = tx.update(None, state, params, batch=(p.x, p.y))
            return w, optax.apply_updates(params, updates), state

        self._step = step

    def formulas(self) -> tuple[dense.Losses, dense.Base]:
        here = self.p._replace(params=self.params)
        return dense.Losses(here), dense.Base(self.base, self.state.base, self.params)

    def step(self) -> Vector:
        """Takes the step and returns its weights."""
        w, self.params, self.state = self._step(self.params, self.state)
        return np.asarray(w)


@pytest.mark.parametrize("name", quick_cases(["sgd", "momentum", "adamw"]))
def test_weights_and_calibrations_equal_their_formulas(name: str) -> None:
    bases = {
        "sgd": optax.sgd(0.5),
        "momentum": optax.sgd(0.1, momentum=0.9),
        "adamw": optax.adamw(0.05, weight_decay=0.1),
    }
    model = gt.weighting.Tail(
        "out", response=1.0, calibrate_every=5, good=0.99, poor=0.0, memory=0.75
    )
    run = Run(models.classification(), bases[name], weighting=model)
    only = np.asarray(ravel_pytree(jax.tree.map(jnp.full_like, run.params, OUT_LEAVES))[0])
    kept, spread = np.zeros(3), 0.0
    for step in range(7):
        losses, base = run.formulas()
        memory = run.state.weighting
        s0, n = dense.influence(losses, base, only)
        trust = np.clip(float(memory.correlation[0]) / 0.99, 0, 1)
        full = losses.scalar_weights(
            float(memory.kappa_momentum[0]) * s0, float(memory.kappa[0]) * n, (0.0, 10.0)
        )
        w = run.step()
        # The model's memory, and with it the trust, is in float32.
        np.testing.assert_allclose(w, 1 + trust * (full - 1), rtol=1e-7)
        spread = max(spread, np.ptp(w))
        if calibrates(step, 5):
            fresh = np.array(calibration(losses, base, w, only))
            kept = np.where(kept == 0, fresh, 0.75 * kept + 0.25 * fresh)
        now = run.state.weighting
        np.testing.assert_allclose(
            [now.kappa[0], now.kappa_momentum[0], now.correlation[0]], kept, rtol=1e-5
        )
        assert now.chosen == 0 and not np.any([now.kappa[1:], now.correlation[1:]])
        prediction = run.state.prediction
        assert (prediction.kappa, prediction.trust) == (memory.kappa[0], pytest.approx(trust))
    assert spread > 0.02


def test_ratios_are_bounded_by_most() -> None:
    """Both ratios are more than 1.1 without the bound."""

    def ratios(most: float) -> Vector:
        weighting = gt.weighting.Tail("out", most=most)
        run = Run(models.classification(), optax.sgd(0.1, momentum=0.9), weighting=weighting)
        run.step()
        run.step()
        return np.array([run.state.weighting.kappa[0], run.state.weighting.kappa_momentum[0]])

    assert ratios(100.0).min() > 1.1
    np.testing.assert_array_equal(ratios(0.5), 0.5)


def test_before_the_first_calibration_weights_are_one() -> None:
    p = models.classification()
    run, plain = Run(p, optax.adam(0.1)), Run(p, optax.adam(0.1), strength=0.0)
    np.testing.assert_array_equal(run.step(), 1.0)
    plain.step()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), run.params, plain.params
    )


def test_a_tail_of_everything_is_product() -> None:
    """Ratio and correlation are 1 after the first calibration."""
    everything = gt.weighting.Tail(EVERYTHING, response=1.0)
    run = Run(models.classification(), optax.rmsprop(0.02), weighting=everything)
    product = implicit_weights(run.base, run.p.apply_fn, run.p.loss, weighting="product")
    run.step()
    assert (run.state.weighting.kappa[0], run.state.weighting.correlation[0]) == (
        1,
        pytest.approx(1),
    )
    for _ in range(3):
        want = compiled(product)(run.state, run.params, (run.p.x, run.p.y))
        got = run.step()
        assert np.ptp(got) > 0.01 and run.state.prediction.trust == 1
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert run.state.prediction.fraction == 1


def test_low_correlation_fades_the_weights() -> None:
    """Full weights from `good` on, weights of 1 below `poor`, linear in between."""
    p = models.classification()
    base, arguments = optax.sgd(0.5), (optax.sgd(0.5), p.apply_fn, p.loss)
    model = gt.weighting.Tail(OUT, response=1.0, good=0.8, poor=0.4)
    state = implicit(*arguments, weighting=model).init(p.params)
    one = jnp.ones(4, jnp.float32)
    look = compiled(implicit_weights(*arguments, weighting=model))

    def weights(correlation: float) -> Vector:
        memory = state.weighting._replace(kappa=2 * one, correlation=correlation * one)
        return np.asarray(look(state._replace(weighting=memory), p.params, (p.x, p.y)))

    full = weights(0.8)
    losses = dense.Losses(p)
    only = np.asarray(ravel_pytree(jax.tree.map(jnp.full_like, p.params, OUT_LEAVES))[0])
    s0, n = dense.influence(losses, dense.Base(base, base.init(p.params), p.params), only)
    np.testing.assert_allclose(full, losses.scalar_weights(s0, 2 * n), rtol=1e-10)
    np.testing.assert_array_equal(weights(1.0), full)
    np.testing.assert_allclose(weights(0.6), 1 + 0.5 * (full - 1), rtol=1e-6)
    for correlation in (0.4, 0.1, 0.0, -1.0):
        np.testing.assert_array_equal(weights(correlation), 1.0)


@pytest.mark.slow
def test_auto_takes_the_shortest_good_tail() -> None:
    """Of the head and the longest tails within a quarter, a half and the whole of the limit."""
    rng = np.random.default_rng(0)
    width = 3
    params = [jnp.asarray(rng.normal(size=(width, width))) for _ in range(8)]

    def deep(params: Tree, x: jax.Array) -> jax.Array:
        for w in params[:-1]:
            x = x + 0.5 * jnp.tanh(x @ w)
        return x @ params[-1]

    p = models.classification()._replace(apply_fn=deep, params=params)
    sizes, chosen = (1, 2, 4), set()
    for good in (0.3, 0.97, 0.9999):
        model = gt.weighting.Tail("auto", response=1.0, cost_limit=0.5, good=good, poor=0.0)
        run = Run(p, optax.sgd(0.05), weighting=model)
        losses, base = run.formulas()
        masks = [np.repeat(np.arange(8) >= 8 - size, width * width) for size in sizes]
        found = [calibration(losses, base, np.ones(5), mask) for mask in masks]
        correlations = np.array([f.correlation for f in found])
        run.step()
        memory = run.state.weighting
        np.testing.assert_allclose(memory.correlation, [*correlations, 0], rtol=1e-5)
        np.testing.assert_allclose(memory.kappa, [*(f.kappa for f in found), 0], rtol=1e-5)
        reached = np.flatnonzero(correlations >= good)
        want = reached[0] if reached.size else np.argmax(correlations)
        assert memory.chosen == want
        chosen.add(int(want))

        losses, base = run.formulas()
        s0, n = dense.influence(losses, base, masks[want])
        full = losses.scalar_weights(s0, float(memory.kappa[want]) * n, (0.0, 10.0))
        trust = min(1.0, float(memory.correlation[want]) / good)
        np.testing.assert_allclose(run.step(), 1 + trust * (full - 1), rtol=1e-6)
        assert run.state.prediction.fraction == pytest.approx(sizes[want] / 8)
    assert len(chosen) > 1, chosen


def test_kappa_momentum_is_known_once_there_is_momentum() -> None:
    """At step 0 momentum is zero and cannot be calibrated; at step 1 it can."""
    run = Run(models.classification(), optax.sgd(0.1, momentum=0.9), tail=EVERYTHING)
    run.step()
    run.step()
    assert run.state.weighting.kappa_momentum[0] == pytest.approx(1)


def test_a_bad_first_batch_is_forgotten() -> None:
    p = models.classification()
    run = Run(p, optax.sgd(0.1), tail=EVERYTHING)
    tx = implicit(run.base, p.apply_fn, p.loss, tail=EVERYTHING)
    _, run.state = compiled(lambda s: tx.update(None, s, p.params, batch=(p.x * np.nan, p.y)))(
        run.state
    )
    assert run.state.report.skipped
    run.step()
    assert run.state.weighting.kappa[0] == pytest.approx(1)


def test_accumulated_gradients_are_calibrated() -> None:
    """Even though `MultiSteps(k=4)` never moves at steps 0, 1, 2, 4, 8, ..."""
    base = optax.MultiSteps(optax.sgd(0.3), 4)
    everything = gt.weighting.Tail(EVERYTHING, response=1.0)
    run = Run(models.classification(), base, weighting=everything)
    spreads = [np.ptp(run.step()) for _ in range(20)]
    assert min(spreads[1:]) > 1e-3
