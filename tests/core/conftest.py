"""Tests run in float64, where exactness is claimed, and without implicit rank promotion."""

from tests.exactness import float32, hostile

__all__ = ["float32", "hostile"]
