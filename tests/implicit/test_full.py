"""`Full` equals its formula."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.terminal.gradient_flow import integrate_sample_weights
from gtddp_jax.terminal.scalar_equation import solve_sample_weights
from tests.default_run import quick_cases
from tests.implicit import dense, models
from tests.implicit.models import implicit, implicit_weights
from tests.sequential import oracle, zoo

Tree = Any
BASES = {
    "sgd": optax.sgd(1.0),
    "momentum": optax.sgd(0.2, momentum=0.9),
    "nesterov": optax.sgd(0.2, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "rmsprop": optax.rmsprop(0.02, decay=0.9, momentum=0.5),
    "lion": optax.lion(0.05, weight_decay=0.1),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1)),
}
IMPLICIT = gt.weighting.Full(factors="implicit")
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no momentum": {"predict_momentum": False},
    "max_shift": {"terminal": gt.terminal.ExactLoss(max_shift=0.1)},
    "bounds": {"bounds": (0.9, 1.05)},
    "strength": {"strength": 0.3},
    "flow": {"weighting": "full"},
}


@pytest.mark.parametrize("name", quick_cases(BASES))
def test_full_equals_its_formula(name: str) -> None:
    """After four steps: `w = psi'(s0 - n w)`, s0 = G u(0), n = -G (u(q) - u(0)).

    The flow of a sample is integrated in tests/terminal; here it starts from the same numbers.
    """
    p = models.classification(batch=7)
    params, base_state = models.after(p, BASES[name], 4)
    p = p._replace(params=params)
    losses, base = dense.Losses(p), dense.Base(BASES[name], base_state, params)
    s0, n = dense.influence(losses, base)

    @jax.jit
    def library(params: Tree) -> dict[str, jax.Array]:
        def one(options: dict[str, Any]) -> jax.Array:
            arguments = (BASES[name], p.apply_fn, p.loss)
            options = {"weighting": IMPLICIT, "bounds": None} | options
            state = implicit(*arguments, **options).init(params)
            look = implicit_weights(*arguments, **options)
            return look(state._replace(base=base_state), params, (p.x, p.y))

        return {label: one(options) for label, options in SETTINGS.items()}

    plain = losses.scalar_weights(s0, n)
    assert np.ptp(plain) > 0.05
    terminal = gt.terminal.ExactLoss(max_shift=None).expand(
        lambda outputs: p.loss(outputs, p.y), jnp.asarray(losses.outputs)
    )
    flow = integrate_sample_weights(terminal, jnp.asarray(s0), jnp.asarray(n), None)
    want = {
        "plain": plain,
        "no momentum": losses.scalar_weights(0 * s0, n),
        "max_shift": dense.Losses(p, max_shift=0.1).scalar_weights(s0, n),
        "bounds": losses.scalar_weights(s0, n, (0.9, 1.05)),
        "strength": 1 + 0.3 * (plain - 1),
        "flow": flow,
    }
    for label, got in library(params).items():
        # A root outside the bounds is approached by 24 bisections: 0.15 / 2^24 is left.
        atol = 2e-8 if label == "bounds" else 0
        np.testing.assert_allclose(got, want[label], rtol=1e-10, atol=atol, err_msg=label)
    for label in ("max_shift", "flow"):
        assert np.abs(want[label] - plain).max() > 1e-3
    assert np.isclose(want["bounds"], plain).sum() < 7


@pytest.mark.slow
def test_gradient_and_update_are_the_weighted_ones() -> None:
    """The base receives q(w), and its state advances once."""
    p = models.classification()
    base = optax.adam(0.1)
    tx = implicit(base, p.apply_fn, p.loss, weighting=IMPLICIT, bounds=None)

    @jax.jit
    def step(params: Tree, state: Any) -> tuple[Tree, Any]:
        updates, state = tx.update(None, state, params, batch=(p.x, p.y))
        return optax.apply_updates(params, updates), state

    params, state = p.params, tx.init(p.params)
    for _ in range(3):
        losses = dense.Losses(p._replace(params=params))
        s0, n = dense.influence(losses, dense.Base(base, state.base, params))
        w = losses.scalar_weights(s0, n)
        q = losses.unravel(jnp.asarray(losses.mean_gradient(w)))
        updates, want_state = base.update(q, state.base, params)
        want = optax.apply_updates(params, updates)
        params, state = step(params, state)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
            (params, state.base),
            (want, want_state),
        )
        np.testing.assert_allclose(
            [state.report.sample_weight_min, state.report.sample_weight_max],
            [w.min(), w.max()],
            rtol=1e-6,
        )


@pytest.mark.parametrize("name", quick_cases(["sgd", "momentum"]))
def test_one_sample_a_batch_is_exact(name: str) -> None:
    """For a base that is affine in the gradient, the system is the equation of `Full`."""
    p = models.classification(batch=1, seed=3)
    params, base_state = models.after(p, BASES[name], 2)

    @jax.jit
    def library(params: Tree) -> list[jax.Array]:
        def one(weighting: Any) -> jax.Array:
            arguments = (BASES[name], p.apply_fn, p.loss)
            state = implicit(*arguments, weighting=weighting).init(params)
            look = implicit_weights(*arguments, weighting=weighting, bounds=None)
            return look(state._replace(base=base_state), params, (p.x, p.y))

        return [one(w) for w in (IMPLICIT, gt.weighting.Exact(steps=12))]

    full, exact = library(params)
    assert abs(full[0] - 1) > 0.05
    np.testing.assert_allclose(full, exact, rtol=1e-12)


@pytest.mark.slow
def test_a_network_is_the_function_that_it_applies() -> None:
    p = zoo.problem("cooperative_of_three", batch=4)
    base = optax.adam(0.05)

    def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return zoo.LOSSES["softmax"](outputs, targets).reshape(outputs.shape[0], -1).sum(1)

    pairs = {
        name: [implicit(base, model, loss, weighting=name) for model in (p.net, p.net.apply)]
        for name in models.WEIGHTINGS
    }

    @jax.jit
    def step(now: dict[str, list[Any]]) -> dict[str, list[Any]]:
        def one(tx: Any, params: Tree, state: Any) -> tuple[Tree, Any]:
            updates, state = tx.update(None, state, params, batch=(p.x, p.y))
            return optax.apply_updates(params, updates), state

        return {
            name: [one(tx, *which) for tx, which in zip(pairs[name], both, strict=True)]
            for name, both in now.items()
        }

    now = {name: [(p.params, tx.init(p.params)) for tx in both] for name, both in pairs.items()}
    for _ in range(3):
        now = step(now)
    for name, ((params, state), (other, other_state)) in now.items():
        assert oracle.relative_error(params, other) < 1e-10, name
        assert state.report.sample_weight_max - state.report.sample_weight_min > 1e-3, name
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other_state), strict=True):
            # The figures of the report are in float32.
            rtol = 1e-10 if a.dtype == jnp.float64 else 1e-5
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-3 * rtol, err_msg=name)


@pytest.mark.slow
def test_hard_scalar_equations() -> None:
    """A loss that bends sharply where a large s0 meets a large n; one root each."""
    s0, n = (
        jnp.asarray(v.ravel())
        for v in np.meshgrid(np.linspace(0, 20, 9), [-20.0, -0.3, 0.3, 2.4, 20.0])
    )
    outputs = jnp.tile(jnp.asarray([[0.0, 2.0]]), (s0.size, 1))
    targets = jnp.ones(s0.size, int)

    def loss(outputs: jax.Array) -> jax.Array:
        return models.cross_entropy(outputs, targets)

    model = gt.terminal.ExactLoss(max_shift=None).expand(loss, outputs)
    fixed = (lambda params, x: x + 0 * params, models.cross_entropy)
    p = dense.Problem(*fixed, jnp.zeros((1, 2)), outputs, targets)
    want = dense.Losses(p).scalar_weights(np.asarray(s0), np.asarray(n), (0.0, 10.0))
    got = jax.jit(lambda s0, n: solve_sample_weights(model, s0, n, (0.0, 10.0)))(s0, n)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.slow
def test_roots_stay_found_beside_harder_ones() -> None:
    """A sample that has found its root keeps it while others still iterate."""
    rng, size = np.random.default_rng(1), 256
    outputs, targets = (
        jnp.asarray(rng.normal(size=(size, 3))),
        jnp.asarray(rng.integers(0, 3, size)),
    )
    s0, n = jnp.asarray(rng.normal(size=size)), jnp.asarray(rng.normal(size=size))
    p = dense.Problem(lambda q, x: x + 0 * q, models.cross_entropy, jnp.zeros(()), outputs, targets)
    model = gt.terminal.ExactLoss(max_shift=None).expand(lambda o: p.loss(o, p.y), outputs)
    got = jax.jit(lambda s0, n: solve_sample_weights(model, s0, n, None))(s0, n)
    want = dense.Losses(p).scalar_weights(np.asarray(s0), np.asarray(n))
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)
