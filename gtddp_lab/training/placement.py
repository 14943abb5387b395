"""Where the arrays of a run live. Steps do not know: they take arrays that are already placed."""

from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from gtddp_lab.core import distributed

StateTree = TypeVar("StateTree")


@dataclass(frozen=True)
class Placement:
    """States and data are replicated on every device, batches are split over all devices.

    Attributes:
        mesh: The result of `distributed.data_mesh`; None for the default device alone.
    """

    mesh: Mesh | None = None

    @property
    def state_sharding(self) -> NamedSharding | None:
        """The sharding of states and data; None for the default device."""
        return None if self.mesh is None else distributed.replicated(self.mesh)

    @property
    def waits_for_each_step(self) -> bool:
        """Whether each step must finish before the next one is dispatched.

        Virtual CPU devices share one thread pool; with several steps in flight, a collective can
        wait forever for a device that has no thread to run on.
        """
        return self.mesh is not None and self.mesh.size > 1 and jax.default_backend() == "cpu"

    def check_batch(self, batch_size: int) -> None:
        """Checks that a batch can be split evenly over the devices.

        Raises:
            DistributedError: If it cannot.
        """
        if self.mesh is not None and batch_size % self.mesh.size:
            raise distributed.DistributedError(
                f"batch_size must be a multiple of the {self.mesh.size} devices, got {batch_size}."
            )

    def place_state(self, state: StateTree) -> StateTree:
        """Places a state, or a part of one."""
        if self.mesh is None:
            return state
        return distributed.place_arrays(state, self.state_sharding)

    def place_rows(self, rows: np.ndarray) -> np.ndarray | jax.Array:
        """Places the indices [..., batch] of one batch or of a chunk of batches.

        Raises:
            DistributedError: If the batch cannot be split evenly over the devices.
        """
        if self.mesh is None:
            return rows
        return distributed.place_arrays(rows, distributed.split_samples(self.mesh, rows.ndim - 1))


ONE_DEVICE = Placement()
"""Everything on the default device."""
