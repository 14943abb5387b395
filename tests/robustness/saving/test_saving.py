"""A state that was saved by any library and restored continues bit for bit."""

import inspect
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import gtddp_jax as gt
from tests.robustness.saving.formats import FORMATS, WITHOUT_NNX, is_key, plain_leaves
from tests.robustness.saving.optimizers import CASES, SavedRun, make_run, saved_run

Tree = Any


def cases_of(library: str) -> list[str]:
    """The optimizers whose states a library can save."""
    return [name for name in CASES if not ("nnx" in name and library in WITHOUT_NNX)]


def check_continues(name: str, run: SavedRun, params: Tree, state: Tree) -> None:
    """The next three steps equal those of the run that was not interrupted."""
    assert jax.tree.structure(state) == jax.tree.structure(run.state), name
    for number in range(2, 5):
        params, state = run.step(params, state, jnp.asarray(number))
    reached, expected = plain_leaves((params, state)), plain_leaves(run.final)
    chex.assert_trees_all_equal(reached, expected, strict=True, custom_message=name)


def test_every_public_optimizer_is_here() -> None:
    makers = {
        name
        for name in gt.__all__
        if inspect.isfunction(getattr(gt, name))
        and inspect.signature(getattr(gt, name)).return_annotation
        in (optax.GradientTransformationExtraArgs, "optax.GradientTransformationExtraArgs")
    }
    assert len(makers) >= 9 and makers <= {name.partition(",")[0] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_no_leaf_is_empty(name: str) -> None:
    run = make_run(name)
    initial = jax.eval_shape(run.init)
    params, after = jax.eval_shape(run.step, run.params, initial, jnp.asarray(0))
    assert all(leaf.size for leaf in jax.tree.leaves((params, initial, after)))
    # A fixed point of a step, so that a saved state fits the initial one.
    chex.assert_trees_all_equal_shapes_and_dtypes(initial, after)


@pytest.mark.parametrize("library", FORMATS)
def test_initial_states_are_saved(library: str, tmp_path: Path) -> None:
    """All optimizers in one file, because every library spends most of its time on files."""
    states = {name: make_run(name).init() for name in cases_of(library)}
    like = jax.tree.map(lambda leaf: leaf if is_key(leaf) else jnp.zeros_like(leaf), states)
    restored = FORMATS[library](states, like, tmp_path)
    assert jax.tree.structure(restored) == jax.tree.structure(states)
    chex.assert_trees_all_equal(plain_leaves(restored), plain_leaves(states), strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("library", FORMATS)
def test_restored_runs_continue(library: str, tmp_path: Path) -> None:
    runs = {name: saved_run(name) for name in cases_of(library)}
    saved = {name: (run.params, run.state) for name, run in runs.items()}
    # Other parameters and the state before the first step, so that nothing is left over.
    like = {
        name: (jax.tree.map(jnp.zeros_like, run.params), run.init()) for name, run in runs.items()
    }
    restored = FORMATS[library](saved, like, tmp_path)
    for name, run in runs.items():
        check_continues(name, run, *restored[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ekfac", "implicit", "implicit, aux"])
def test_states_are_ordinary_trees(name: str) -> None:
    """Copied to the host, mapped over, made from shapes, or donated, a state is the same state."""
    run = saved_run(name)
    shapes = jax.eval_shape(run.init)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, run.state)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    copies = jax.tree.map(
        lambda zero, leaf: zero + leaf if leaf.dtype != bool else leaf | zero, zeros, run.state
    )
    check_continues(name, run, run.params, copies)
    check_continues(name, run, *jax.device_get((run.params, run.state)))
    donated = jax.jit(run.step.__wrapped__, donate_argnums=(0, 1))
    params, state = jax.tree.map(jnp.copy, (run.params, run.state))
    for number in range(2, 5):
        params, state = donated(params, state, jnp.asarray(number))
    # A program that writes over its arguments is another one, which may round differently.
    reached, expected = plain_leaves((params, state)), plain_leaves(run.final)
    chex.assert_trees_all_close(reached, expected, rtol=1e-4, atol=1e-6)
