"""Exactness is claimed in float64, and nothing may be promoted in rank without being asked."""

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
    """What users have: its precision, and programs that are optimised as usual."""
    jax.config.update(FEW_PASSES, False)  # until `hostile` ends
    with jax.enable_x64(False):
        yield
