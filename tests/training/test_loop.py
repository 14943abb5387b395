"""Batches and scores."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gtddp_jax as gt
from gtddp_jax.training import loop
from gtddp_jax.training.data import Dataset
from tests.training.helpers import state_of


@given(st.integers(0, 2**31), st.integers(1, 1000), st.integers(1, 200), st.integers(1, 200))
@settings(deadline=None)
def test_batches_are_full_and_never_repeat_a_sample(
    seed: int, epoch: int, samples: int, batch_size: int
) -> None:
    order = loop.batch_order(seed, epoch, samples, batch_size)
    assert order.shape == (samples // batch_size, batch_size)
    assert order.dtype == np.int32
    assert len(set(order.ravel().tolist())) == order.size
    assert order.size == 0 or 0 <= order.min() <= order.max() < samples


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    first = loop.batch_order(1, 1, 100, 8)
    np.testing.assert_array_equal(first, loop.batch_order(1, 1, 100, 8))
    assert (first != loop.batch_order(2, 1, 100, 8)).any()
    assert (first != loop.batch_order(1, 2, 100, 8)).any()


@pytest.mark.parametrize("chunk", [1, 5, 12, 1000])
def test_scores_do_not_depend_on_the_chunk(
    monkeypatch: pytest.MonkeyPatch, tiny_net: gt.Network, tiny_dataset: Dataset, chunk: int
) -> None:
    monkeypatch.setattr(loop, "EVALUATION_CHUNK", chunk)
    images = jnp.asarray(tiny_dataset.validation_images)
    labels = jnp.asarray(tiny_dataset.validation_labels)
    loss = optax.softmax_cross_entropy_with_integer_labels
    params = tiny_net.init(jax.random.key(0), images[:1])
    (score,) = loop.evaluate(tiny_net, loss, state_of(params), images, labels)
    outputs = tiny_net.apply(params, images)
    np.testing.assert_allclose(score.loss, loss(outputs, labels).mean(), rtol=1e-5)
    assert score.accuracy == np.mean(np.asarray(outputs).argmax(axis=-1) == np.asarray(labels))
