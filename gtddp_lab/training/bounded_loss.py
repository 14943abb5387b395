"""Losses that have a logarithm, also where single precision rounds them to 0."""

from typing import Any

import numpy as np

LEAST_LOSS = 1e-12
"""A mean loss in single precision is larger than this, or 0."""


def bounded_loss(losses: Any) -> np.ndarray:
    """Return losses of any shape, each at least `LEAST_LOSS`; NaN stays.

    >>> bounded_loss([0.0, 0.5]).tolist()
    [1e-12, 0.5]
    """
    return np.maximum(losses, LEAST_LOSS)
