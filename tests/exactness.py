"""Settings for tests of exactness: float64, explicit rank promotion, fast compilation."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import pytest

FEW_PASSES = "jax_disable_most_optimizations"


@contextmanager
def exact() -> Iterator[None]:
    """Compute in float64; implicit rank promotion is an error.

    Programs run only a few times, so optimizing them would take longer than it saves.
    """
    before = jax.config.read(FEW_PASSES)
    jax.config.update(FEW_PASSES, True)
    try:
        with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
            yield
    finally:
        jax.config.update(FEW_PASSES, before)


@pytest.fixture(autouse=True)
def hostile() -> Iterator[None]:
    """Every test of a folder whose `conftest.py` imports this computes with `exact`."""
    with exact():
        yield


@pytest.fixture
def float32() -> Iterator[None]:
    """The precision and the compiler optimizations that users have."""
    jax.config.update(FEW_PASSES, False)  # until `hostile` ends
    with jax.enable_x64(False):
        yield
