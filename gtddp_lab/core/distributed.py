"""Training on several devices and in several processes: joining processes, placing arrays.

Samples are the data axis, and everything per sample stays on the device of its sample. Under
``jit`` with a batch split over the mesh, the compiler inserts the sums over devices; the same
program runs on one device, on all devices of one process, and on those of many processes.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gtddp_lab.core import peers

DATA_AXIS = "data"
"""Name of the mesh's only axis."""

HEARTBEAT_SECONDS = 100
"""Seconds without a heartbeat from one process after which JAX itself ends all others."""


class DistributedError(ValueError):
    """Processes or devices cannot be combined as requested; the message is one line."""


@dataclass(frozen=True)
class ProcessCoordinates:
    """Identifies a process among the processes of a run; give all values or none.

    Attributes:
        coordinator: ``host:port`` of process 0, reachable from all others; the port must be free.
        num_processes: Number of processes.
        process_id: Index of this process, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            DistributedError: If only some are given, or one is invalid.
        """
        given = (self.coordinator, self.num_processes, self.process_id)
        if any(value is None for value in given) and given != (None, None, None):
            raise DistributedError(
                "coordinator, num_processes and process_id go together: give all three, or none "
                "under Slurm, Open MPI or Kubernetes."
            )
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise DistributedError(f"coordinator must be host:port, got {self.coordinator!r}.")
        if not 0 <= self.process_id < self.num_processes:
            raise DistributedError(
                f"process_id must be from 0 to num_processes - 1 = {self.num_processes - 1}, "
                f"got {self.process_id}."
            )


def join_processes(coordinates: ProcessCoordinates, timeout: float = 120) -> None:
    """Joins the other processes of the run; call it before anything else uses a device.

    If the other processes do not join in time, this process prints a message and exits with code
    ``peers.EXIT_PEER_LOST``; JAX offers no exception for this case.

    Args:
        coordinates: This process's coordinates; if empty, JAX asks Slurm, Open MPI or Kubernetes.
        timeout: Seconds to wait for the other processes.

    Raises:
        DistributedError: If no cluster environment is found, or the coordinator cannot be used.
    """
    # JAX prints nothing while it waits, so the watchdog says where the processes should meet.
    meeting_point = coordinates.coordinator or "the coordinator that the cluster names"
    watchdog = peers.ProgressWatchdog(
        timeout, f"the processes did not all meet at {meeting_point} within {timeout:g} s"
    )
    try:
        jax.distributed.initialize(
            coordinates.coordinator,
            coordinates.num_processes,
            coordinates.process_id,
            cluster_detection_method="deactivate" if coordinates.coordinator else None,
            # JAX aborts the process at its own timeout, so the watchdog must come first.
            initialization_timeout=math.ceil(timeout) + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        if coordinates.coordinator is None:
            raise DistributedError(
                "no Slurm, Open MPI or Kubernetes job was found around this process "
                f"({peers.first_line(error)}). Give coordinator, num_processes and process_id."
            ) from error
        raise DistributedError(
            f"process {coordinates.process_id} of {coordinates.num_processes} cannot use the "
            f"coordinator {coordinates.coordinator} ({peers.first_line(error)})."
        ) from error
    finally:
        watchdog.cancel()


def data_mesh(devices: int | None = None) -> Mesh:
    """Returns the mesh over which batches are split: one axis, ``"data"``.

    Args:
        devices: Number of devices, the first ones; by default all devices of all processes.

    Raises:
        DistributedError: If there are fewer devices, or some processes would have none.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        hint = ""
        if jax.default_backend() == "cpu" and count > 0:
            flag = f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
            hint = f" For virtual devices of the CPU set {flag} and NPROC={2 * count}."
        raise DistributedError(f"devices must be from 1 to {len(available)}, got {count}.{hint}")
    if jax.process_count() > 1 and count < len(available):
        raise DistributedError(
            f"with {jax.process_count()} processes all {len(available)} devices take part; choose "
            "the devices of each process instead (CUDA_VISIBLE_DEVICES)."
        )
    # Auto axes: the compiler decides where collectives go, as in any jitted program.
    return jax.make_mesh(
        (count,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=available[:count]
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with a full copy on every device: parameters, states, small data."""
    return NamedSharding(mesh, PartitionSpec())


def split_samples(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding that splits arrays along ``axis``, the axis of the samples."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA_AXIS))


def place_arrays(tree: Any, sharding: Any) -> Any:
    """Places host values on the devices of all processes.

    Args:
        tree: Arrays, with equal values in all processes. Typed keys (``jax.random.key``) are
            supported in a run of one process only.
        sharding: One sharding for all arrays, or a tree of shardings.

    Raises:
        DistributedError: If the samples cannot be divided evenly among the devices.
    """
    shardings = (
        jax.tree.map(lambda _: sharding, tree)
        if isinstance(sharding, jax.sharding.Sharding)
        else sharding
    )
    return jax.tree.map(_place_array, tree, shardings)


def _place_array(value: Any, sharding: NamedSharding) -> jax.Array:
    # A spec may be shorter than the shape: the remaining axes are not split.
    for size, names in zip(np.shape(value), sharding.spec, strict=False):
        if names is not None and size % sharding.mesh.size:
            raise DistributedError(
                f"an axis of {size} cannot be divided among {sharding.mesh.size} devices: "
                "batch_size must be a multiple of them."
            )
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    # device_put reaches this process's devices only; each process supplies its own shards.
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def broadcast_text(text: str) -> str:
    """Returns process 0's text in every process; all processes must call it.

    Args:
        text: The text, at most 4096 bytes; ignored except in process 0.
    """
    if jax.process_count() == 1:
        return text
    from jax.experimental.multihost_utils import broadcast_one_to_all

    # Collectives only move arrays of one fixed shape, so the text travels as padded bytes.
    buffer = np.zeros(4096, np.uint8)
    encoded = text.encode()[: len(buffer)]
    buffer[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    return bytes(np.asarray(broadcast_one_to_all(buffer))).rstrip(b"\0").decode()


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all processes must call it."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental.multihost_utils import process_allgather

    return bool(np.any(process_allgather(np.asarray(flag))))


def fsdp_shardings(tree: Any, mesh: Mesh, smallest: int = 2**10) -> Any:
    """Returns shardings that split parameters and optimizer state over the devices.

    Each large array is split along its longest axis that is divisible by the number of devices; all
    others are replicated. Pass the shardings to `place_arrays` and, as ``out_shardings``, to
    ``jax.jit``: the compiler then gathers a parameter where it is used and scatters its update.

    Args:
        tree: Parameters, an optimizer state, or both: arrays or their shapes.
        mesh: The mesh.
        smallest: Number of elements from which on an array is split.

    Returns:
        A tree of ``NamedSharding``.
    """

    def sharding_of(leaf: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        # Small arrays stay whole: gathering them would cost more than the memory they take.
        if math.prod(leaf.shape) < smallest or not divisible:
            return replicated(mesh)
        return split_samples(mesh, max(divisible, key=lambda axis: leaf.shape[axis]))

    return jax.tree.map(sharding_of, tree)
