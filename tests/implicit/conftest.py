"""Exactness is claimed in float64, and nothing may be promoted in rank without being asked."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def hostile() -> Iterator[None]:
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)  # what is compiled runs a few times
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def float32() -> Iterator[None]:
    """What users have: its precision, and programs that are optimised as usual."""
    jax.config.update("jax_disable_most_optimizations", False)  # until `hostile` ends
    with jax.enable_x64(False):
        yield
