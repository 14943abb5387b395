"""Exactness is claimed in float64, and nothing may be promoted in rank without being asked."""

from collections.abc import Iterator

import pytest

from tests.exactness import exact


@pytest.fixture(autouse=True)
def hostile() -> Iterator[None]:
    with exact():
        yield
