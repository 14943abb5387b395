"""Where a run's arrays live. The step itself does not know: it takes what is already placed."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Placement:
    """Shardings of what a step takes; the data set's own is the feed's.

    Attributes:
        state: Of every array of the state; None for the default device.
        rows: Of the indices of a batch, [..., batch]; None to hand them over as they are.
    """

    state: jax.sharding.Sharding | None = None
    rows: jax.sharding.Sharding | None = None

    def put_state(self, state: Any) -> Any:
        """Places a state, or any part of one."""
        return state if self.state is None else jax.device_put(state, self.state)

    def put_rows(self, rows: np.ndarray) -> Any:
        """Places the indices of a batch, or of a chunk of them."""
        return rows if self.rows is None else jax.device_put(rows, self.rows)


ONE_DEVICE = Placement()
"""Everything on the default device."""
