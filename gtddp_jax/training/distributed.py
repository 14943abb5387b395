"""Training on many devices and in many processes: who takes part, and what lies where.

Samples are the data axis, and everything per sample is local to its device. Under ``jit`` with a
batch that is spread over the mesh, the compiler adds the sums over devices by itself; the same
program runs on one device, on the devices of one process, and on those of many.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gtddp_jax.training import peers

AXIS = "data"
"""Name of the mesh's only axis."""

HEARTBEAT_SECONDS = 100
"""After so long without a sign of life from a process, JAX itself ends all others."""


class DistributedError(ValueError):
    """Processes or devices cannot be brought together as asked; its text is one line."""


@dataclass(frozen=True)
class Coordinates:
    """Where a process stands among the others; all or none are given.

    Attributes:
        coordinator: ``host:port`` of process 0, which all others reach; a free port there.
        num_processes: Number of processes.
        process_id: Number of this one, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        """Checks them.

        Raises:
            DistributedError: If only some are given, or one cannot be used.
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


def initialise(coordinates: Coordinates, timeout: float = 120) -> None:
    """Joins the other processes of the run; before anything else touches a device.

    If the others do not come in time, the process says so and ends, with exit code
    ``peers.EXIT_PEER_LOST``: JAX leaves no other way.

    Args:
        coordinates: This process' place; without them JAX asks Slurm, Open MPI or Kubernetes.
        timeout: Seconds to wait for the others.

    Raises:
        DistributedError: If there is no cluster to be asked, or process 0 cannot be coordinator.
    """
    place = coordinates.coordinator or "the coordinator that the cluster names"
    watch = peers.Watch(timeout, f"the processes did not all meet at {place} within {timeout:g} s")
    try:
        jax.distributed.initialize(
            coordinates.coordinator,
            coordinates.num_processes,
            coordinates.process_id,
            cluster_detection_method="deactivate" if coordinates.coordinator else None,
            initialization_timeout=math.ceil(timeout)
            + 60,  # JAX aborts then; the watch comes first
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
        watch.stop()


def data_mesh(devices: int | None = None) -> Mesh:
    """The mesh over which batches are spread: one axis, ``"data"``.

    Args:
        devices: How many of the first devices take part; by default all devices of all processes.

    Raises:
        DistributedError: If there are not so many, or processes would be left out.
    """
    present = jax.devices()
    count = len(present) if devices is None else devices
    if not 1 <= count <= len(present):
        hint = ""
        if jax.default_backend() == "cpu" and count > 0:
            flag = f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
            hint = f" For virtual devices of the CPU set {flag} and NPROC={2 * count}."
        raise DistributedError(f"devices must be from 1 to {len(present)}, got {count}.{hint}")
    if jax.process_count() > 1 and count < len(present):
        raise DistributedError(
            f"with {jax.process_count()} processes all {len(present)} devices take part; choose "
            "the devices of each process instead (CUDA_VISIBLE_DEVICES)."
        )
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=present[:count])


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole: parameters, states, small data sets."""
    return NamedSharding(mesh, PartitionSpec())


def spread(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The sharding of arrays whose ``axis`` is that of the samples."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))


def put(tree: Any, sharding: Any) -> Any:
    """Places host values on the devices of all processes; each process has the same values.

    Args:
        tree: Arrays; all processes hand in equal ones. Keys as ``jax.random.key`` makes them may be
            among them where there is one process.
        sharding: One sharding for all of them, or a tree of shardings.

    Raises:
        DistributedError: If the samples cannot be divided among the devices.
    """
    shardings = (
        jax.tree.map(lambda _: sharding, tree)
        if isinstance(sharding, jax.sharding.Sharding)
        else sharding
    )
    return jax.tree.map(_put, tree, shardings)


def _put(value: Any, sharding: NamedSharding) -> jax.Array:
    for size, names in zip(np.shape(value), sharding.spec, strict=False):
        if names is not None and size % sharding.mesh.size:
            raise DistributedError(
                f"an axis of {size} cannot be divided among {sharding.mesh.size} devices: "
                "batch_size must be a multiple of them."
            )
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def agree(text: str) -> str:
    """Returns what process 0 has said, in every process; all must call it.

    Args:
        text: Process 0's text, at most 4096 bytes; the others' is not looked at.
    """
    if jax.process_count() == 1:
        return text
    from jax.experimental.multihost_utils import broadcast_one_to_all

    letters = np.zeros(4096, np.uint8)
    said = text.encode()[: len(letters)]
    letters[: len(said)] = np.frombuffer(said, np.uint8)
    return bytes(np.asarray(broadcast_one_to_all(letters))).rstrip(b"\0").decode()


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all must call it."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental.multihost_utils import process_allgather

    return bool(np.any(process_allgather(np.asarray(flag))))


def fsdp(tree: Any, mesh: Mesh, smallest: int = 2**10) -> Any:
    """Shardings under which each device keeps a part of parameters and optimizer state.

    Every large array is divided along its longest axis that the devices divide evenly; the others
    stay whole. Handed to ``put`` and to ``jax.jit`` as ``out_shardings``, they make the compiler
    gather a parameter where it is used and scatter its update.

    Args:
        tree: Parameters, an optimizer state, or both: arrays or their shapes.
        mesh: The mesh.
        smallest: Elements from which on an array is divided.

    Returns:
        A tree of ``NamedSharding``.
    """

    def one(leaf: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if math.prod(leaf.shape) < smallest or not divisible:
            return everywhere(mesh)
        return spread(mesh, max(divisible, key=lambda axis: leaf.shape[axis]))

    return jax.tree.map(one, tree)
