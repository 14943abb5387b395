"""Exactness is claimed in float64, and nothing may be promoted in rank without being asked."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def hostile() -> Iterator[None]:
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield
