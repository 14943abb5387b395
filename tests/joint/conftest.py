"""Tests of exactness run in float64, and implicit rank promotion is an error."""

from collections.abc import Iterator

import pytest

from tests.exactness import exact


@pytest.fixture(autouse=True)
def hostile() -> Iterator[None]:
    with exact():
        yield
