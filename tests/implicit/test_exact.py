"""`Exact` solves the implicit game exactly.

For a quadratic terminal model and a base `u = -P q` that is the batch-augmented dynamic program
with the layers' own curvature kept (Eq. 25): the sequential recursion and one B x B system agree.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from gtddp_jax.implicit.weighting.exact import Linearization
from tests.default_run import quick_cases
from tests.implicit import dense, models
from tests.implicit.models import implicit, implicit_weights
from tests.sequential import oracle, zoo

Tree = Any
CASES = [
    ("small", "identity"),
    ("small", "diagonal"),
    ("small", "full"),
    ("identity", "full"),
    ("shortcut_at_1", "full"),
    ("cooperative_of_three", "full"),
    ("conv_1d", "diagonal"),
    ("tokens_out", "full"),
]
FORMS = ("gram", "matrix_free")
DECAY = 0.1


def matrices(kind: str, sizes: Sequence[int]) -> list[jax.Array]:
    """P of every stage, learning rate included: far larger than plain descent could use."""
    rng = np.random.default_rng(0)

    def one(m: int) -> np.ndarray:
        root = rng.normal(size=(m, m)) / np.sqrt(m)
        return {
            "identity": np.eye(m),
            "diagonal": np.diag(rng.uniform(0.3, 2, m)),
            "full": root @ root.T + 0.3 * np.eye(m),
        }[kind]

    return [jnp.asarray(one(m)) for m in sizes]


def preconditioned(net: gt.Network, p: Sequence[jax.Array]) -> optax.GradientTransformation:
    """`u = -P_t q` for the players of every stage, side by side."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        step = {}
        for stage, matrix in zip(net.stages, p, strict=True):
            gradient, unravel = ravel_pytree({name: updates[name] for name in stage.players})
            step.update(unravel(-matrix @ gradient))
        return step, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def stage_vectors(net: gt.Network, tree: Tree) -> list[jax.Array]:
    """A tree of parameters as one vector per stage."""
    return [
        ravel_pytree({player: tree[player] for player in stage.players})[0] for stage in net.stages
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), quick_cases(CASES))
def test_exact_is_the_batch_augmented_dynamic_program(name: str, kind: str) -> None:
    p = zoo.problem(name, batch=3)
    running = jax.tree.map(lambda u: DECAY * u, p.params)
    inverse = matrices(kind, [u.size for u in stage_vectors(p.net, p.params)])

    def loss(outputs: Any, targets: jax.Array) -> jax.Array:
        return zoo.LOSSES["softmax"](outputs, targets).reshape(outputs.shape[0], -1).sum(1)

    @jax.jit
    def library(params: Tree) -> dict[str, Any]:
        def one(form: str) -> Any:
            tx = implicit(
                preconditioned(p.net, inverse),
                p.net,
                loss,
                weighting=gt.weighting.Exact(steps=1, form=form),
                terminal=gt.terminal.ProjectedHessian(),
                bounds=None,
            )
            return tx.update(running, tx.init(params), params, batch=(p.x, p.y))

        return {form: one(form) for form in FORMS}

    @jax.jit
    def definition(params: Tree) -> tuple[Tree, list[jax.Array]]:
        step = gt.reference.ddp_step(
            p.net.stages,
            params,
            p.x,
            lambda outputs: loss(outputs, p.y),
            gt.reference.HESSIANS["projected"],
            gt.reference.stage_curvature_gains(lambda t: jnp.linalg.inv(inverse[t])),
            running_gradient=running,
            rollout="linear",
            coupling="batch",
        ).steps
        rows = jax.jacrev(lambda u: loss(p.net.apply(u, p.x), p.y))(params)
        big_g = jax.vmap(lambda row: stage_vectors(p.net, row))(rows)
        return step, big_g

    want, big_g = definition(p.params)
    for form, (got, state) in library(p.params).items():
        report = state.report
        figures = (
            f"{form}: weights {report.sample_weight_min:.3f} to {report.sample_weight_max:.3f}"
        )
        assert oracle.relative_error(got, want) < 1e-10, figures
        assert report.sample_weight_max - report.sample_weight_min > 0.05, figures

    vectors = zip(
        stage_vectors(p.net, want), stage_vectors(p.net, running), big_g, inverse, strict=True
    )
    weights = []  # of the samples in the recursion, one row per stage
    for step, cost, rows, matrix in vectors:
        closed = -np.linalg.solve(matrix, step) - cost
        w, _, rank, _ = np.linalg.lstsq(np.asarray(rows).T / 3, closed, rcond=1e-9)
        assert rank == 3
        weights.append(w)
    assert np.ptp(weights, axis=1).min() > 0.05
    np.testing.assert_allclose(weights, np.tile(weights[0], (len(weights), 1)), rtol=1e-9)


def least_squares(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return 0.5 * jnp.square(outputs - targets).sum(-1)


def logistic(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.sigmoid_binary_cross_entropy(outputs, jax.nn.sigmoid(targets)).sum(-1)


def proximal_updates(p: dense.Problem, rates: Sequence[float], steps: int) -> dict[Any, jax.Array]:
    """The updates of implicit gradient descent, by form and rate."""

    @jax.jit
    def all_of_them(params: Tree) -> dict[Any, jax.Array]:
        def one(form: str, rate: float) -> jax.Array:
            tx = implicit(
                optax.sgd(rate),
                p.apply_fn,
                p.loss,
                weighting=gt.weighting.Exact(steps=steps, form=form),
                terminal=gt.terminal.ExactLoss(max_shift=None),
                bounds=None,
            )
            return tx.update(None, tx.init(params), params, batch=(p.x, p.y))[0]

        return {f"{form} {rate}": one(form, rate) for form in FORMS for rate in rates}

    return {
        (label, float(label.split()[1])): update for label, update in all_of_them(p.params).items()
    }


@pytest.mark.slow
def test_least_squares_proximal_step_in_closed_form() -> None:
    """The minimizer of |X w - y|^2 / 2B + |w - w0|^2 / 2 lr, for small and far too large rates."""
    p = models.linear(loss=least_squares)
    batch, width = p.x.shape
    for (label, rate), update in proximal_updates(p, (0.01, 1.0, 100.0), steps=1).items():
        hessian = p.x.T @ p.x / batch + jnp.eye(width) / rate
        want = jnp.linalg.solve(hessian, p.x.T @ p.y / batch + p.params / rate)
        np.testing.assert_allclose(p.params + update, want, rtol=1e-10, atol=1e-12, err_msg=label)


@pytest.mark.slow
def test_logistic_proximal_step_is_stationary() -> None:
    p = models.linear(loss=logistic)
    for (label, rate), update in proximal_updates(p, (1.0, 30.0), steps=20).items():
        gradient = jax.grad(lambda w: p.loss(p.apply_fn(w, p.x), p.y).mean())(p.params + update)
        np.testing.assert_allclose(gradient, -update / rate, rtol=1e-10, atol=1e-12, err_msg=label)


BASES = {
    "momentum": optax.sgd(0.3, momentum=0.9),
    "nesterov": optax.sgd(0.2, momentum=0.9, nesterov=True),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0, momentum=0.5)),
}


@pytest.mark.parametrize("name", quick_cases(BASES))
def test_root_of_the_system(name: str) -> None:
    """After three steps, so that the base's state has momentum, curvature and decay."""
    p = models.classification()
    params, base_state = models.after(p, BASES[name], 3)
    p = p._replace(params=params)
    losses, base = dense.Losses(p), dense.Base(BASES[name], base_state, params)

    @jax.jit
    def library(params: Tree) -> dict[str, jax.Array]:
        def one(form: str, predict: bool) -> jax.Array:
            arguments = (BASES[name], p.apply_fn, p.loss)
            model = gt.weighting.Exact(steps=12, form=form)
            options = {"weighting": model, "bounds": None, "predict_momentum": predict}
            state = implicit(*arguments, **options).init(params)._replace(base=base_state)
            return implicit_weights(*arguments, **options)(state, params, (p.x, p.y))

        return {
            f"{form} {predict}": one(form, predict) for form in FORMS for predict in (True, False)
        }

    got = library(params)
    for predict in (True, False):
        want = dense.system_weights(losses, base, predict_momentum=predict)
        assert np.ptp(want) > 0.02
        for form in FORMS:
            np.testing.assert_allclose(got[f"{form} {predict}"], want, rtol=1e-10, err_msg=form)


@pytest.mark.slow
def test_momentum_in_closed_form() -> None:
    """`projected`: w = (I + H N / B)^-1 (1 + H s0), N = rate G G^T, s0 = G (-rate 0.9 trace)."""
    p = models.classification()
    rate, base = 0.3, optax.sgd(0.3, momentum=0.9)
    params, base_state = models.after(p, base, 3)
    p = p._replace(params=params)
    losses = dense.Losses(p)
    trace = np.asarray(ravel_pytree(base_state[0].trace)[0])
    hessians = jax.jit(jax.vmap(jax.hessian(lambda o, y: p.loss(o[None], y[None])[0])))(
        losses.outputs, p.y
    )
    second_derivative = np.array(
        [g @ hessian @ g / (g @ g) ** 2 for g, hessian in zip(losses.g, hessians, strict=True)]
    )
    gram = rate * losses.big_g @ losses.big_g.T

    @jax.jit
    def library(params: Tree) -> dict[str, jax.Array]:
        def one(form: str, predict: bool) -> jax.Array:
            tx = implicit(
                base,
                p.apply_fn,
                p.loss,
                weighting=gt.weighting.Exact(steps=1, form=form),
                terminal=gt.terminal.ProjectedHessian(),
                bounds=None,
                predict_momentum=predict,
            )
            state = tx.init(params)._replace(base=base_state)
            return ravel_pytree(tx.update(None, state, params, batch=(p.x, p.y))[0])[0]

        return {
            f"{form} {predict}": one(form, predict) for form in FORMS for predict in (True, False)
        }

    got = library(params)
    for predict in (True, False):
        s0 = losses.big_g @ (-rate * 0.9 * trace) * predict
        matrix = np.eye(losses.batch) + second_derivative[:, None] * gram / losses.batch
        w = np.linalg.solve(matrix, 1 + second_derivative * s0)
        step = -rate * (0.9 * trace + losses.mean_gradient(w))
        for form in FORMS:
            np.testing.assert_allclose(got[f"{form} {predict}"], step, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("options", [{}, {"halvings": 0}])
def test_a_step_is_halved_six_times_at_most(options: dict[str, Any]) -> None:
    """The residual after any step is NaN, and the full step is -r: I + D M = I."""
    w, r = jnp.array([1.0, 2.0, -0.5]), jnp.array([0.3, -0.7, 1.1])

    class NowhereSmaller:
        def linearize_at(self, w: jax.Array) -> Linearization:
            return Linearization(r, jnp.zeros_like(w), lambda v: v)

        def residual(self, w: jax.Array) -> jax.Array:
            return jnp.nan * w

        def sample_dot(self, a: jax.Array, b: jax.Array) -> jax.Array:
            return a @ b

    system: Any = NowhereSmaller()
    got = gt.weighting.Exact(**options)._newton_step(system, w)
    np.testing.assert_allclose(got, w - r / 2 ** options.get("halvings", 6), rtol=1e-15)
