"""Many devices, and many processes: the same run, and an end when one of them is lost."""

import pytest

from gtddp_jax.training.distributed import Coordinates, DistributedError
from tests.conftest import RunPython


def test_many_devices_equal_one(run_python: RunPython) -> None:
    result = run_python(
        "-W", "error", "-m", "tests.training.devices_script", devices=4, timeout=300
    )
    assert result.returncode == 0, result.stderr
    flags = "For virtual devices of the CPU set XLA_FLAGS=--xla_force_host_platform_device_count"
    assert result.stdout.splitlines() == [
        "batches: equal",
        "devices must be from 1 to 4, got 0.",
        f"devices must be from 1 to 4, got 5. {flags}=5 and NPROC=10.",
        "an axis of 6 cannot be divided among 4 devices: batch_size must be a multiple of them.",
        *(f"fsdp, {label}: equal" for label in ("sgd", "adam", "ekfac", "implicit")),
        "batch normalisation, sharded_jit: equal",
        "batch normalisation, shard_map: equal",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1234", 2, None), "go together: give all three, or none under Slurm"),
        ((None, 2, 0), "go together"),
        (("localhost", 2, 0), "coordinator must be host:port, got 'localhost'"),
        (("localhost:port", 2, 0), "coordinator must be host:port"),
        (("localhost:1234", 2, 2), "process_id must be from 0 to num_processes - 1 = 1, got 2"),
        (("localhost:1234", 0, 0), "process_id must be from 0"),
    ],
)
def test_wrong_coordinates(given: tuple[str | None, int | None, int | None], message: str) -> None:
    with pytest.raises(DistributedError, match=message):
        Coordinates(*given)
