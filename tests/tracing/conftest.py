"""Tests run in float64 and raise on implicit rank promotion."""

from collections.abc import Iterator

import pytest

from tests.exactness import exact


@pytest.fixture(autouse=True)
def hostile() -> Iterator[None]:
    with exact():
        yield
