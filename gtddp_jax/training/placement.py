"""Where a run's arrays live. The step itself does not know: it takes what is already placed."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gtddp_jax.training import distributed


@dataclass(frozen=True)
class Placement:
    """States and data whole on every device, batches spread over all of them.

    Attributes:
        mesh: What `distributed.data_mesh` returns; None for everything on the default device.
    """

    mesh: Mesh | None = None

    @property
    def whole(self) -> jax.sharding.NamedSharding | None:
        """The sharding of states and data; None for the default device."""
        return None if self.mesh is None else distributed.everywhere(self.mesh)

    @property
    def starves(self) -> bool:
        """Whether steps must be waited for one by one.

        Devices that share a processor's threads otherwise starve each other of them.
        """
        return self.mesh is not None and self.mesh.size > 1 and jax.default_backend() == "cpu"

    def check_batch(self, batch_size: int) -> None:
        """Checks that every device gets as many samples of a batch.

        Raises:
            DistributedError: If not.
        """
        if self.mesh is not None and batch_size % self.mesh.size:
            raise distributed.DistributedError(
                f"batch_size must be a multiple of the {self.mesh.size} devices, got {batch_size}."
            )

    def put_state(self, state: Any) -> Any:
        """Places a state, or any part of one."""
        return state if self.mesh is None else distributed.put(state, self.whole)

    def put_rows(self, rows: np.ndarray) -> Any:
        """Places the indices of a batch [..., batch], or of a chunk of them.

        Raises:
            DistributedError: If the batch cannot be divided among the devices.
        """
        if self.mesh is None:
            return rows
        return distributed.put(rows, distributed.spread(self.mesh, rows.ndim - 1))


ONE_DEVICE = Placement()
"""Everything on the default device."""
