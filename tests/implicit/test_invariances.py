"""Invariances of the weights, and their bounds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.implicit import dense, models
from tests.implicit.dense import Vector
from tests.implicit.models import implicit, implicit_weights

Tree = Any
BASE = optax.adam(0.1)


def looked(p: dense.Problem, base: Any = BASE, steps: int = 1, **options: Any) -> dict[str, Any]:
    """By weighting: the weights after some steps, and the parameters and state at that point."""

    @jax.jit
    def all_of_them(params: Tree) -> dict[str, Any]:
        def one(weighting: str) -> Any:
            arguments, rest = (base, p.apply_fn, p.loss), {"weighting": weighting} | options
            tx, look = implicit(*arguments, **rest), implicit_weights(*arguments, **rest)
            now, state = params, tx.init(params)
            for _ in range(steps):
                updates, state = tx.update(None, state, now, batch=(p.x, p.y))
                now = optax.apply_updates(now, updates)
            return look(state, now, (p.x, p.y)), now, state

        return {name: one(name) for name in models.WEIGHTINGS}

    return all_of_them(p.params)


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    with jax.enable_x64(True):
        found = looked(models.classification())
        for name, (w, _, _) in found.items():
            assert np.ptp(w) > 0.01, name
        return found


@pytest.mark.slow
def test_permuted_samples_permute_the_weights(plain: dict[str, Any]) -> None:
    p = models.classification()
    order = np.array([3, 0, 4, 1, 2])
    for name, (w, params, _) in looked(p._replace(x=p.x[order], y=p.y[order])).items():
        want, want_params, _ = plain[name]
        np.testing.assert_allclose(w, want[order], rtol=1e-9, err_msg=name)
        _assert_equal(params, want_params, name)


@pytest.mark.slow
def test_a_duplicated_batch_changes_nothing(plain: dict[str, Any]) -> None:
    p = models.classification()
    twice = p._replace(x=jnp.concatenate([p.x] * 2), y=jnp.concatenate([p.y] * 2))
    for name, (w, params, state) in looked(twice).items():
        want, want_params, want_state = plain[name]
        np.testing.assert_allclose(w, np.tile(want, 2), rtol=1e-9, err_msg=name)
        _assert_equal(params, want_params, name)
        _assert_equal(state.report, want_state.report, name, rtol=1e-5)


def _assert_equal(got: Tree, want: Tree, name: str, rtol: float = 1e-9) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12, err_msg=name)


def hinge(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """A smooth loss that is zero and flat where the correct output is positive."""
    correct = jnp.take_along_axis(outputs, targets[:, None], 1)[:, 0]
    return jnp.square(jax.nn.relu(-correct))


@pytest.mark.slow
def test_samples_without_a_gradient_have_weight_one() -> None:
    p = models.classification(batch=8)._replace(loss=hinge)
    for name, (w, params, state) in looked(p, base=optax.sgd(0.3)).items():
        dead = np.asarray(hinge(p.apply_fn(params, p.x), p.y)) == 0
        assert 1 < dead.sum() < 7
        np.testing.assert_array_equal(np.asarray(w)[dead], 1.0, err_msg=name)
        assert np.abs(np.asarray(w)[~dead] - 1).min() > 1e-3, name
        assert not state.report.skipped


def test_a_batch_without_any_gradient_is_a_step_of_the_base() -> None:
    p = models.classification()._replace(loss=lambda outputs, y: 0 * jnp.square(outputs).sum(-1))
    for name, (w, params, state) in looked(p, base=optax.adamw(0.1, weight_decay=0.5)).items():
        np.testing.assert_array_equal(w, 1.0, err_msg=name)
        assert not state.report.skipped
        want = jax.tree.map(lambda u: (1 - 0.1 * 0.5) * u, p.params)
        _assert_equal(params, want, name)


def looked_again(plain: dict[str, Any], **options: Any) -> dict[str, Vector]:
    """The weights at the parameters and states of `plain`, with different options."""
    p = models.classification()

    @jax.jit
    def all_of_them(now: dict[str, Any]) -> dict[str, jax.Array]:
        def one(name: str) -> jax.Array:
            look = implicit_weights(BASE, p.apply_fn, p.loss, weighting=name, **options)
            return look(*now[name], (p.x, p.y))

        return {name: one(name) for name in models.WEIGHTINGS}

    found = all_of_them({name: (state, params) for name, (_, params, state) in plain.items()})
    return {name: np.asarray(w) for name, w in found.items()}


@pytest.mark.slow
def test_weights_stay_within_their_bounds(plain: dict[str, Any]) -> None:
    for name, w in looked_again(plain, bounds=(0.95, 1.0)).items():
        free = np.asarray(plain[name][0])
        assert free.min() < 0.95, name
        np.testing.assert_allclose(w, np.clip(free, 0.95, 1.0), rtol=1e-12, err_msg=name)


@pytest.mark.slow
def test_strength_moves_weights_towards_one(plain: dict[str, Any]) -> None:
    for name, w in looked_again(plain, strength=0.25).items():
        want = 1 + 0.25 * (plain[name][0] - 1)
        np.testing.assert_allclose(w, want, rtol=1e-12, err_msg=name)
