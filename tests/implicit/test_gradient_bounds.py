"""Bounds on gradients, against autodiff, and steps that are judged by them."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.core.safety import squares_finite
from gtddp_jax.implicit.linearized_losses import LinearizedLosses
from gtddp_jax.implicit.read_losses import ReadLosses
from gtddp_jax.terminal import ExactLoss
from gtddp_jax.tracing import gradient_bounds
from tests.default_run import quick_cases
from tests.implicit.read_models import BATCH, MODELS, read_model

BOUNDED = {
    "dense": ["a", "head", "square"],
    "convolution": ["head"],
    "few_channels": ["head", "mix"],
    "attention": ["out", "qkv"],
    "mapped": ["a", "head"],
    "samples_last": [],
    "merged_axes": ["a", "head"],
    "recurrent": ["a", "head"],
    "stacked_layers": ["a", "c", "head"],
}
"""The leaves that are read by products as they are, of models whose adjoints are used again."""

ROOT = float(np.finfo(np.float32).max) ** 0.5


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gradients of any size are bounded, and models may promote ranks."""
    monkeypatch.setattr(gradient_bounds, "LEAST_SAVING", 0)
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", quick_cases(sorted(MODELS), "dense", "recurrent", "batch_norm"))
def test_no_gradient_exceeds_its_bound(name: str, any_size: None) -> None:
    model, w = read_model(name), jnp.asarray(np.linspace(-2.0, 3.0, BATCH))
    labels = np.arange(BATCH) % 3

    def loss(outputs: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)

    def forward(params: Any) -> tuple[Any, None]:
        return model.apply(params, model.inputs), None

    losses = ReadLosses(forward, loss, model.params, ExactLoss(), None)
    assert losses.gradient_bounds(w) == {}, "before there are adjoints"
    gradient: Any = losses.weighted_gradient(w)
    bounds, names = losses.gradient_bounds(w), sorted(model.params)
    found = [names[leaf] for leaf in bounds]
    if not model.reuses:
        assert not found
    elif name in BOUNDED:
        assert found == BOUNDED[name]
    for leaf, bound in bounds.items():
        largest = float(jnp.abs(gradient[names[leaf]]).max())
        assert 0.01 * bound < largest <= bound
    without = LinearizedLosses(forward, loss, model.params, ExactLoss(), None)
    assert without.gradient_bounds(w) == {}


def half_square(outputs: Any) -> jax.Array:
    return optax.l2_loss(outputs).sum(-1)


def bounds_of(apply: Any, params: Any, x: Any, w: Any) -> tuple[Any, Any]:
    """The weighted gradient and its bounds, for half the square of the outputs."""
    losses = ReadLosses(
        lambda params: (apply(params, x), None),
        half_square,
        params,
        ExactLoss(),
        None,
    )
    return losses.weighted_gradient(w), losses.gradient_bounds(w)


def test_equal_samples_of_one_number_reach_the_bound(any_size: None) -> None:
    """The same number is read twice, and each read counts."""
    gradient, bounds = bounds_of(
        lambda params, x: x @ params["a"] @ params["a"],
        {"a": jnp.full((1, 1), 3.0)},
        jnp.full((BATCH, 1), 2.0),
        jnp.full(BATCH, -5.0),
    )
    np.testing.assert_allclose(bounds[0], abs(gradient["a"]).item(), rtol=1e-12)


def test_a_matrix_that_is_added_as_well_has_no_bound(any_size: None) -> None:
    _, bounds = bounds_of(
        lambda params, x: x @ params["a"] + params["a"][0],
        {"a": jnp.ones((2, 3))},
        jnp.ones((BATCH, 2)),
        jnp.ones(BATCH),
    )
    assert bounds == {}


def test_small_gradients_are_read() -> None:
    """Data and adjoints are not much smaller than the gradient."""
    params, x = {"a": jnp.ones((4, 5))}, jnp.ones((BATCH, 4))
    _, bounds = bounds_of(lambda params, x: x @ params["a"], params, x, jnp.ones(BATCH))
    assert bounds == {}


@pytest.mark.parametrize(
    ("largest", "bound", "finite"),
    [
        (jnp.nan, 1.0, True),  # a small bound is believed, without a look
        (jnp.nan, jnp.nan, False),
        (1.0, jnp.inf, True),
        (1.0, ROOT, True),
        (2 * ROOT, 0.5 * ROOT, False),
        (jnp.inf, jnp.inf, False),
    ],
)
def test_bounds_answer_if_they_are_small(largest: float, bound: float, finite: bool) -> None:
    tree = [jnp.ones(3, jnp.float32), jnp.ones((2, 3), jnp.float32).at[1, 1].set(largest)]
    assert squares_finite(tree, {1: jnp.float32(bound)}) == finite
    tree[0] = tree[0].at[0].set(jnp.inf)
    assert not squares_finite(tree, {1: jnp.float32(bound)})


@pytest.mark.parametrize(
    ("data", "scales", "skipped"),
    [
        ((1.0, 1.0), (1.0, 1.0), False),
        ((jnp.nan, 1.0), (1.0, 1.0), True),
        ((1.0, 1.0), (1.0, jnp.inf), True),
        ((1e9, 1.0), (1.0, 1e9), False),  # the bound is too large, the gradient is not
        ((1.0, 1e11), (1.0, 1e11), True),
    ],
)
def test_wide_layers_and_small_batches(
    data: tuple[float, float], scales: tuple[float, float], skipped: bool, float32: None
) -> None:
    """The step is taken exactly if the squares of the gradient are finite; all weights are 1."""
    x = jnp.ones((2, 60)) * jnp.array(data)[:, None]
    params = {"a": jnp.zeros((60, 50)), "b": jnp.ones((50, 1)) / 50}
    tx = gt.implicit(optax.sgd(0.0))

    def losses(params: Any) -> gt.Losses:
        outputs = jnp.array(scales)[:, None] * jnp.tanh(x @ params["a"]) @ params["b"]
        return gt.Losses(outputs, lambda outputs: optax.l2_loss(outputs, jnp.ones((2, 1))).sum(1))

    _, gradient = gt.value_and_grad(losses)(params)
    assert bool(jnp.isfinite(jnp.square(gradient["a"])).all()) != skipped
    no_gradient: Any = None
    _, state = jax.jit(lambda state: tx.update(no_gradient, state, params, losses=losses))(
        tx.init(params)
    )
    assert state.report.skipped == skipped
