"""Fixture for exact comparisons: float64, and no implicit rank promotion."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def hostile() -> Iterator[None]:
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield
