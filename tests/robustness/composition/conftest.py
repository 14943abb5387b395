"""Tests run in float64, where exactness is claimed, and without implicit rank promotion."""

from collections.abc import Iterator

import jax
import pytest

from tests.exactness import FEW_PASSES, exact


@pytest.fixture(autouse=True)
def hostile() -> Iterator[None]:
    with exact():
        yield


@pytest.fixture
def float32() -> Iterator[None]:
    """The precision and the compiler optimizations that users have."""
    jax.config.update(FEW_PASSES, False)  # until `hostile` ends
    with jax.enable_x64(False):
        yield
