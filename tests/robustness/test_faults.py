"""Faults raise a clear error when the step is traced, or skip the step and report it."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.errors import FlaxError

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.robustness.games import (
    BATCH,
    CROSS_ENTROPY,
    GAMES,
    LABELS,
    NET,
    PARAMS,
    X,
    finite,
    squared,
    step_of,
)

Tree = Any
TRACED = {
    "sequential": lambda loss: gt.adam(NET, loss, 1e-2),
    "kronecker": lambda loss: gt.kfac(NET, loss, 1e-2),
    "full": lambda loss: gt.implicit(optax.adam(1e-2), NET, loss, weighting="full"),
    "sketch": lambda loss: gt.implicit(optax.adam(1e-2), lambda p, x: NET.apply(p, x), loss),
}


def column(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The common mistake of pairing outputs [B, 1] with targets [B]."""
    return jnp.square(outputs[:, :1] - targets).sum(-1)


def cast(dtype: Any) -> Tree:
    return jax.tree.map(lambda u: u.astype(dtype), PARAMS)


REFUSED: dict[str, tuple[Any, Tree, Any, str]] = {
    "integer parameters": (
        CROSS_ENTROPY,
        cast(jnp.int32),
        (X, LABELS),
        r"parameters must be real floating-point numbers, got int32 at \['Dense_0'\]\['bias'\]",
    ),
    "complex parameters": (
        squared,
        cast(jnp.complex64),
        (X, X),
        "real floating-point numbers, got complex64",
    ),
    "empty batch": (CROSS_ENTROPY, PARAMS, (X[:0], LABELS[:0]), "the batch is empty"),
    "wrong number of features": (
        CROSS_ENTROPY,
        PARAMS,
        (jnp.ones((BATCH, 5)), LABELS),
        r"kernel.* shape \(5, 3\), but.* shape \(3, 3\)",
    ),
    "fewer targets": (squared, PARAMS, (X, X[:3]), r"broadcast.*\(4, 3\).*\(3, 3\)"),
    "targets that are broadcast": (
        column,
        PARAMS,
        (X, jnp.ones(BATCH)),
        r"element by element: it accepts 5 targets for 4 outputs.*\(4, 3\).*\(4,\)",
    ),
    "real labels": (CROSS_ENTROPY, PARAMS, (X, LABELS + 0.5), "integer"),
    "integer losses": (
        lambda outputs, y: squared(outputs, y).astype(jnp.int32),
        PARAMS,
        (X, X),
        r"returned int32. It must return real floating-point numbers",
    ),
    "complex losses": (
        lambda outputs, y: squared(outputs, y) + 1j,
        PARAMS,
        (X, X),
        r"returned complex64. It must return real",
    ),
}


@pytest.mark.parametrize("game", TRACED)
@pytest.mark.parametrize("fault", REFUSED)
def test_refused_when_traced(game: str, fault: str) -> None:
    loss, params, batch, message = REFUSED[fault]
    tx: Any = TRACED[game](loss)
    with pytest.raises((ValueError, TypeError, FlaxError)) as error:
        state = tx.init(params)
        jax.eval_shape(lambda: tx.update(None, state, params, batch=batch))
    assert error.match(message), error.value


@pytest.mark.parametrize("game", quick_cases(TRACED))
def test_what_pairs_outputs_with_targets_passes(game: str) -> None:
    """Targets may be a tree, partly not per sample or unused; the batch may have one sample."""

    def weighted(outputs: jax.Array, targets: Any) -> jax.Array:
        labels, by_class, _ = targets
        return by_class[labels] * CROSS_ENTROPY(outputs, labels)

    for loss, x, y in (
        (weighted, X, (LABELS, jnp.ones(3), LABELS)),
        (squared, X[:1], X[:1]),
        (lambda outputs, y: jnp.square(outputs).sum(-1), X, LABELS),
        (jax.jit(lambda outputs, y: jnp.square(outputs).sum(-1)), X, LABELS),
        (lambda outputs, y: jnp.square(outputs).sum(-1), X, None),
        (jax.vmap(lambda o, y: jnp.square(o[0] - y)), X, jnp.ones(BATCH)),
        (lambda outputs, y: jnp.square(outputs[:, 0] - y), X.astype(int), np.ones(BATCH)),
    ):
        tx: Any = TRACED[game](loss)
        state = tx.init(PARAMS)
        jax.eval_shape(lambda tx=tx, s=state, b=(x, y): tx.update(None, s, PARAMS, batch=b))


def spoiled(tree: Tree, value: float) -> list[tuple[str, Tree]]:
    """By path, the tree with one number of one floating-point array replaced."""
    leaves, structure = jax.tree.flatten(tree)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    found = []
    for i, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size:
            bad = [*leaves[:i], leaf.at[(0,) * leaf.ndim].set(value), *leaves[i + 1 :]]
            found.append((jax.tree_util.keystr(paths[i]), jax.tree.unflatten(structure, bad)))
    return found


@functools.cache
def compiled(name: str) -> tuple[Callable[..., Any], Any]:
    """A game's compiled step, and the state after one step."""
    rate, make = GAMES[name]
    tx: Any = make(CROSS_ENTROPY, rate)
    step = step_of(tx)
    _, state = step(PARAMS, tx.init(PARAMS), (X, LABELS))
    return step, state


def check_skipped(before: Any, updates: Tree, after: Any, label: str) -> None:
    assert after.report.skipped, label
    assert after.report.skipped_steps == before.report.skipped_steps + 1, label
    assert not any(u.any() for u in jax.tree.leaves(updates)), label


def check_after_a_spoiled_state(
    step: Callable[..., Any], updates: Tree, after: Any, label: str
) -> None:
    """The step was taken: its own parameter stays, or the next step is skipped."""
    if finite(updates):
        # An infinite second moment.
        assert any(u[(0,) * u.ndim] == 0 for u in jax.tree.leaves(updates)), label
    else:
        again, last = step(optax.apply_updates(PARAMS, updates), after, (X, LABELS))
        check_skipped(after, again, last, label)


QUICK_GAMES = quick_cases(GAMES, "adam", "kfac", "full, adam")
BAD = {"nan": jnp.nan, "inf": jnp.inf, "-inf": -jnp.inf}


@pytest.mark.parametrize("name", quick_cases(QUICK_GAMES))
def test_numbers_that_are_not_finite(name: str) -> None:
    """Bad numbers in inputs, in each array of the parameters, and in the base method's state.

    The sequential game looks for them in all three. The implicit game looks at what it computes: an
    infinite parameter behind a saturated unit is not found, and its step is finite. Nor does it
    search the state of its base; a state that spoils parameters does so once, and the step after
    that is skipped.
    """
    step, state = compiled(name)
    field = "base" if hasattr(state, "base") else "curvature"
    for label, value in BAD.items():
        updates, after = step(PARAMS, state, (X.at[1, 0].set(value), LABELS))
        check_skipped(state, updates, after, f"{label} in the inputs")
        for path, params in spoiled(PARAMS, value):
            updates, after = step(params, state, (X, LABELS))
            if field == "base" and np.isinf(value) and not after.report.skipped:
                assert finite((updates, after)), f"{label} in {path}"
            else:
                check_skipped(state, updates, after, f"{label} in {path}")
        for path, bad in spoiled(getattr(state, field), value):
            before, where = state._replace(**{field: bad}), f"{label} in the state, {path}"
            updates, after = step(PARAMS, before, (X, LABELS))
            if field == "base" and not after.report.skipped:
                check_after_a_spoiled_state(step, updates, after, where)
            else:
                check_skipped(state, updates, after, where)


@pytest.mark.parametrize("name", QUICK_GAMES)
def test_labels(name: str) -> None:
    """Labels beyond the classes give NaN in optax (a skipped step); -1 is the last class."""
    step, state = compiled(name)
    updates, after = step(PARAMS, state, (X, LABELS.at[0].set(3)))
    check_skipped(state, updates, after, "label 3 of 3 classes")
    got, _ = step(PARAMS, state, (X, LABELS.at[0].set(-1)))
    want, _ = step(PARAMS, state, (X, LABELS.at[0].set(2)))
    chex.assert_trees_all_equal(got, want)


CALM: dict[str, Callable[[], Tree]] = {
    "equal logits": lambda: jax.tree.map(jnp.zeros_like, PARAMS),
    "saturated": lambda: PARAMS | {"Dense_2": jax.tree.map(lambda u: 1e4 * u, PARAMS["Dense_2"])},
}


@pytest.mark.parametrize("name", QUICK_GAMES)
def test_flat_places_of_the_loss(name: str) -> None:
    """With equal logits, or a softmax of only ones and zeros, the step is finite and taken.

    The exception is the `gradient` model, which assumes a curvature of 1 where it is 0: its weights
    overflow, so the step is skipped and reported.
    """
    step, state = compiled(name)
    for label, make in CALM.items():
        params = make()
        updates, after = step(params, state, (X, LABELS))
        if after.report.skipped:
            assert "gradient model" in name and label == "saturated"
            after = after._replace(report=())
        assert finite((updates, after)), label
