"""`trial` equals a hand-run loop (DESIGN §4): slopes at the outputs after the base's own step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.implicit import dense, models
from tests.implicit.dense import Vector, compiled
from tests.implicit.models import implicit, implicit_weights

Tree = Any


class Tried(NamedTuple):
    """What the base's own step does.

    Attributes:
        w: weights with the outputs followed up to the radius.
        kept: real change of the mean loss over the predicted one.
        size: by how much each sample's outputs would move.
    """

    w: Vector
    kept: float
    size: Vector


def tried(p: dense.Problem, base: dense.Base, radius: float) -> Tried:
    losses = dense.Losses(p)
    q = losses.mean_gradient()
    step = base(q)
    new = np.asarray(
        p.apply_fn(optax.apply_updates(p.params, losses.unravel(jnp.asarray(step))), p.x)
    )
    w, size = [], []
    for i, g in enumerate(losses.g):
        shift = new[i] - losses.outputs[i]
        size.append(np.sqrt((shift**2).sum()))
        reached = losses.outputs[i] + min(1, radius / size[i]) * shift
        w.append((g * losses.gradient(i, reached)).sum() / (g**2).sum())
    actual = np.mean(p.loss(new, p.y) - p.loss(losses.outputs, p.y))
    kept = float(actual / (q @ step)) if q @ step < 0 else 1.0
    return Tried(np.array(w), kept, np.array(size))


@pytest.mark.parametrize(
    ("rate", "radius", "seen"), [(1.0, None, set()), (0.5, 0.2, {1.0, 1.1}), (3.0, 0.6, {0.7, 1.0})]
)
def test_trial_equals_a_hand_run_loop(rate: float, radius: float | None, seen: set[float]) -> None:
    """With a radius: it shrinks by 0.7, stays or grows by 1.1 after each step."""
    p = models.classification(seed=2)
    base = optax.sgd(rate, momentum=0.5)
    options = {"weights": gt.weights.trial(radius, good=0.8), "bounds": (0.2, 2.0)}
    tx = implicit(base, p.apply_fn, p.loss, **options)
    look = implicit_weights(base, p.apply_fn, p.loss, **options)

    @compiled
    def step(params: Tree, state: Any) -> tuple[jax.Array, Tree, Any]:
        w = look(state, params, (p.x, p.y))
        updates, state = tx.update(None, state, params, batch=(p.x, p.y))
        return w, optax.apply_updates(params, updates), state

    params, state = p.params, tx.init(p.params)
    bounded, factors = 0, set()
    for _ in range(8):
        now = np.inf if radius is None else float(state.weights)
        want = tried(p._replace(params=params), dense.Base(base, state.base, params), now)
        w, params, state = step(params, state)
        np.testing.assert_allclose(w, np.clip(want.w, 0.2, 2.0), rtol=1e-10)
        np.testing.assert_allclose(
            [state.report.weight_min, state.report.weight_max], [w.min(), w.max()], rtol=1e-6
        )
        if radius is None:
            assert state.weights == () and state.prediction.radius == 0
            continue
        bounded += int((want.size > now).sum())
        factor = 0.7 if want.kept <= 0.25 else 1.0 if want.kept <= 0.8 else 1.1
        factors.add(factor)
        assert state.weights == pytest.approx(np.float32(now) * factor, rel=1e-6)
        assert state.prediction.radius == np.float32(now)
    assert factors == seen and (radius is None or bounded > 0)


def test_radius_stays_within_its_bounds() -> None:
    p = models.classification()

    @compiled
    def last_radius(params: Tree) -> list[jax.Array]:
        def one(rate: float, **options: Any) -> jax.Array:
            model = gt.weights.trial(radius=1.0, **options)
            tx = implicit(optax.sgd(rate), p.apply_fn, p.loss, weights=model)
            state = tx.init(params)
            for _ in range(3):
                state = tx.update(None, state, params, batch=(p.x, p.y))[1]
            return state.weights

        return [one(0.01, most=1.15), one(1e3, least=0.4)]

    np.testing.assert_allclose(last_radius(p.params), [1.15, 0.4], rtol=1e-6)


def test_affine_model_has_no_surprises() -> None:
    """One linear output: the new output is the predicted one, w = psi'(G u(q))."""

    def logistic(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(outputs, targets > 0).sum(-1)

    p = models.linear(loss=logistic)
    base = optax.adam(0.3)
    losses = dense.Losses(p)
    flat = dense.Base(base, base.init(p.params), p.params)
    want = losses.slopes(losses.big_g @ flat(losses.mean_gradient()))
    arguments = (base, p.apply_fn, p.loss)
    options = {"weights": gt.weights.trial(radius=None), "bounds": None}
    state = implicit(*arguments, **options).init(p.params)
    got = compiled(implicit_weights(*arguments, **options))(state, p.params, (p.x, p.y))
    assert np.ptp(want) > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-12)
