"""Tests run in float64; programs that run once are compiled with few optimizations."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", before)
