"""Dispatch and scores."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_lab.data import Dataset
from gtddp_lab.training import loop
from tests.default_run import quick_cases
from tests.lab.training.helpers import state_of


@pytest.mark.parametrize("chunk", quick_cases([1, 5, 12, 1000]))
def test_scores_do_not_depend_on_the_chunk(
    monkeypatch: pytest.MonkeyPatch, tiny_net: gt.Network, tiny_dataset: Dataset, chunk: int
) -> None:
    monkeypatch.setattr(loop, "EVALUATION_CHUNK", chunk)
    images = jnp.asarray(tiny_dataset.validation_images)
    labels = jnp.asarray(tiny_dataset.validation_labels)
    loss = optax.softmax_cross_entropy_with_integer_labels
    params = tiny_net.init(jax.random.key(0), images[:1])
    (score,) = loop.score_network(tiny_net, loss, state_of(params), images, labels)
    outputs: Any = tiny_net.apply(params, images)
    np.testing.assert_allclose(score.loss, loss(outputs, labels).mean(), rtol=1e-5)
    assert score.accuracy == np.mean(np.asarray(outputs).argmax(axis=-1) == np.asarray(labels))
