"""Tests run in float64, where exactness is claimed, and without implicit rank promotion."""

from tests.exactness import hostile

__all__ = ["hostile"]
