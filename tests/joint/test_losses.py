"""The joint game with a function of losses, and with a model and a loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.joint.problems import PARAMS, cross_entropy, logits, points

DAMPING = 1e-2
FULL_STEP = gt.step_control.FixedRate(1.0)
X: Any = points(4, 5)
LABELS = np.arange(4) % 3
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels


def network(params: Any, x: jax.Array) -> jax.Array:
    """A model of a batch."""
    hidden = x @ params["hidden"] + params["bias"][None]
    return jnp.tanh(hidden) @ params["readout"]


def normalized(params: Any, x: jax.Array) -> jax.Array:
    """A model with batch normalization."""
    hidden = x @ params["hidden"]
    hidden = (hidden - hidden.mean(0)[None]) / jnp.sqrt(hidden.var(0)[None] + 0.1)
    return jnp.tanh(hidden + params["bias"][None]) @ params["readout"]


def plain(params: Any) -> gt.Losses:
    return gt.Losses(network(params, X), lambda outputs: CROSS_ENTROPY(outputs, LABELS))


def tree_of_outputs(params: Any) -> gt.Losses:
    """Two outputs of different shapes beside a constant, a batch-normalized model, a mask."""

    def per_sample(outputs: Any) -> jax.Array:
        scores, mean, labels = outputs
        return CROSS_ENTROPY(scores, labels) + jnp.log(jnp.cosh(mean))

    scores = normalized(params, X)
    mask = np.array([2.0, 1.0, 0.0, 1.0])
    return gt.Losses((scores, scores.mean(1), LABELS), per_sample, mask)


def dense_step(losses: Callable[[Any], gt.Losses], linear: jax.Array | None = None) -> jax.Array:
    """Newton's method on F, with the derivative of all outputs of the batch."""
    flat, unravel = ravel_pytree(PARAMS)

    def floats(vector: jax.Array) -> Any:
        return [
            leaf
            for leaf in jax.tree.leaves(losses(unravel(vector)).outputs)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
        ]

    found = losses(unravel(flat))
    structure = jax.tree.structure(found.outputs)
    rest = jax.tree.leaves(found.outputs)[len(floats(flat)) :]
    base, jacobian = floats(flat), jax.jacfwd(floats)(flat)
    mask = jnp.ones(4) if found.mask is None else jnp.asarray(found.mask)

    def objective(d: jax.Array) -> jax.Array:
        moved = [o + J @ d for o, J in zip(base, jacobian, strict=True)]
        values = found.per_sample(jax.tree.unflatten(structure, [*moved, *rest]))
        further = 0.0 if linear is None else linear @ d
        return values @ mask / mask.sum() + 0.5 * DAMPING * d @ d + further

    d = jnp.zeros_like(flat)
    derivatives = jax.jit(lambda d: (jax.grad(objective)(d), jax.hessian(objective)(d)))
    for _ in range(20):
        gradient, hessian = derivatives(d)
        d = d - jnp.linalg.solve(hessian, gradient)
    return d


def step(losses: Any, updates: Any = None, **options: Any) -> tuple[jax.Array, Any]:
    tx: Any = gt.joint(None, DAMPING, step=FULL_STEP, **options)
    run = jax.jit(lambda params: tx.update(updates, tx.init(params), params, losses=losses))
    found, state = run(PARAMS)
    return ravel_pytree(found)[0], state


def check(got: jax.Array, want: jax.Array) -> None:
    assert jnp.linalg.norm(got - want) <= 1e-10 * jnp.linalg.norm(want)


@pytest.mark.parametrize("side", quick_cases(["dual", "primal"]))
@pytest.mark.parametrize("losses", quick_cases([plain, tree_of_outputs]))
def test_a_step_is_the_minimizer(losses: Any, side: str) -> None:
    """Batch normalization is no obstacle: rows are those of the whole batch."""
    got, state = step(losses, side=side, chunk=3)
    check(got, dense_step(losses))
    assert not state.report.skipped and not state.report.samples_coupled
    assert state.report.loss == state.report.term_losses["loss"]


@pytest.mark.slow
def test_the_short_form_and_a_term_take_the_same_step() -> None:
    want, state = step(plain)
    cases = [
        (gt.supervised_term(network, CROSS_ENTROPY), (X, LABELS)),
        (gt.Term(logits, cross_entropy), {"x": X, "label": LABELS}),
    ]
    for term, batch in cases:
        tx: Any = gt.joint(term, DAMPING, step=FULL_STEP)
        found, other = jax.jit(tx.update)(None, tx.init(PARAMS), PARAMS, batch=batch)
        check(ravel_pytree(found)[0], want)
        np.testing.assert_allclose(other.report.loss, state.report.loss, rtol=1e-6)


@pytest.mark.slow
def test_a_running_cost_and_a_regularizer_are_linear_in_the_step() -> None:
    decay = jax.tree.map(lambda p: 0.003 * p, PARAMS)

    def regularized(params: Any) -> gt.Losses:
        squares = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params))
        found = plain(params)
        return gt.Losses(found.outputs, found.per_sample, regularizer=0.001 * squares)

    both = jax.tree.map(lambda p: 0.005 * p, PARAMS)
    want = dense_step(plain, ravel_pytree(both)[0])
    for side in ("dual", "primal"):
        got, state = step(regularized, decay, side=side)
        check(got, want)
    squares = 0.001 * float(jnp.square(ravel_pytree(PARAMS)[0]).sum())
    np.testing.assert_allclose(state.report.loss, state.report.term_losses["loss"] + squares, 1e-6)
    # The change of all that the step lowers: losses, regularizer and running cost.
    after = jax.tree.map(jnp.add, PARAMS, ravel_pytree(PARAMS)[1](got))
    change = [
        gt.value_and_grad(regularized)(params)[0][0]
        + jnp.vdot(ravel_pytree(decay)[0], ravel_pytree(params)[0])
        for params in (PARAMS, after)
    ]
    np.testing.assert_allclose(state.report.actual_change, change[1] - change[0], rtol=1e-5)


@pytest.mark.slow
def test_make_step_trains_and_returns_aux() -> None:
    def losses(params: Any, x: jax.Array) -> gt.Losses:
        outputs = network(params, x)
        return gt.Losses(outputs, lambda o: CROSS_ENTROPY(o, LABELS), aux={"outputs": outputs})

    tx = optax.chain(optax.add_decayed_weights(1e-4), gt.joint(damping=DAMPING))
    train = gt.make_step(tx, losses, donate=False)
    params, state = PARAMS, tx.init(PARAMS)
    output: Any = None
    for _ in range(4):
        params, state, output = train(params, state, X)
    assert output.loss < 0.05 and output.aux["outputs"].shape == (4, 3)
    assert isinstance(output.report, gt.JointReport) and not output.report.skipped


def contrastive(params: Any) -> gt.Losses:
    return gt.Losses(network(params, X), lambda o: jax.nn.logsumexp(o @ o.T, axis=1))


COUPLED: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "a loss": lambda: (None, {"losses": contrastive}),
    "a model": lambda: (gt.supervised_term(normalized, CROSS_ENTROPY), {"batch": (X, LABELS)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COUPLED)
def test_a_step_of_coupled_samples_is_skipped_and_reported(case: str) -> None:
    terms, call = COUPLED[case]()
    tx: Any = gt.joint(terms, gt.damping.LevenbergMarquardt(), 0.5)
    before = tx.init(PARAMS)
    found, state = jax.jit(lambda params: tx.update(None, before, params, **call))(PARAMS)
    assert state.report.samples_coupled and state.report.skipped
    assert state.damping == before.damping
    assert not ravel_pytree((found, state.previous_step))[0].any()


def hidden_params(params: Any) -> gt.Losses:
    scale = params["bias"].sum()
    return gt.Losses(network(params, X), lambda o: scale * jnp.square(o).sum(-1))


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "terms and losses": (logits, {"losses": plain}, "takes batch={term: samples} and no function"),
    "no losses": (None, {}, "joint: update was called without losses"),
    "a batch": (None, {"batch": X}, "joint: update received a batch"),
    "validation": (
        None,
        {"losses": plain, "validation_batch": X},
        "validation_batch needs terms to evaluate it by",
    ),
    "complex": (
        None,
        {"losses": lambda p: gt.Losses(1j * network(p, X), lambda o: jnp.abs(o).sum(-1))},
        "real floating-point numbers, got complex128",
    ),
    "hidden parameters": (None, {"losses": hidden_params}, "computed from the parameters"),
    "mask": (
        None,
        {"losses": lambda p: gt.Losses(network(p, X), lambda o: o[:, 0], np.ones(3))},
        "the mask has shape",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    terms, call, message = REFUSED[case]
    tx: Any = gt.joint(terms)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda params: tx.update(None, tx.init(params), params, **call), PARAMS)
