"""Several devices and processes give the same run, and exit if a process is lost."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gtddp_lab.core.distributed import DistributedError, ProcessCoordinates
from gtddp_lab.core.peers import EXIT_PEER_LOST
from tests.conftest import RunPython, child_environment

TIMEOUT_S = 240


@pytest.mark.slow
def test_many_devices_equal_one(run_python: RunPython) -> None:
    result = run_python(
        "-W", "error", "-m", "tests.lab.training.devices_script", devices=4, timeout=300
    )
    assert result.returncode == 0, result.stderr
    flags = "For virtual devices of the CPU set XLA_FLAGS=--xla_force_host_platform_device_count"
    assert result.stdout.splitlines() == [
        "batches: equal",
        "devices must be from 1 to 4, got 0.",
        f"devices must be from 1 to 4, got 5. {flags}=5 and NPROC=10.",
        "an axis of 6 cannot be divided among 4 devices: batch_size must be a multiple of them.",
        *(f"fsdp, {label}: equal" for label in ("sgd", "adam", "ekfac", "implicit")),
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
        ProcessCoordinates(*given)


class Processes:
    """Starts the script in several processes, and kills those that are left at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[str]] = []

    def start(
        self, count: int, waiting: int | None = None, devices: int = 1
    ) -> list[subprocess.Popen[str]]:
        """Starts ``count`` processes; process ``waiting`` stops training after a few chunks."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        children = []
        for index in range(count):
            where = [] if count == 1 else [coordinator, str(count), str(index)]
            life = "4" if index == waiting else "0"
            script = [sys.executable, "-m", "tests.lab.training.processes_script"]
            child = subprocess.Popen(
                [*script, str(self._folder), life, *where],
                env=child_environment(devices),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            children.append(child)
        self._running += children
        return children

    def finish(self, count: int, devices: int = 1) -> tuple[dict[str, np.ndarray], str]:
        """Runs to the end; returns the parameters and the output of process 0."""
        children = self.start(count, devices=devices)
        said = [child.communicate(timeout=TIMEOUT_S) for child in children]
        assert [child.returncode for child in children] == [0] * count, said
        with np.load(self._folder / "params.npz") as found:
            return dict(found), said[0][0]

    def end(self) -> None:
        for child in self._running:
            if child.poll() is None:
                child.kill()  # SIGKILL: a process that is stopped or hangs takes no other
            child.communicate(timeout=20)


def wait_for(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdout is not None
    for said in child.stdout:
        if said.strip() == line:
            return
    raise AssertionError(f"the process ended without saying {line!r}")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    some = Processes(tmp_path)
    yield some
    some.end()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The parameters after an uninterrupted run in one process."""
    some = Processes(tmp_path_factory.mktemp("alone"))
    try:
        return some.finish(1)[0]
    finally:
        some.end()


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_the_loop_on_four_devices_equals_one(
    processes: Processes, alone: dict[str, np.ndarray]
) -> None:
    assert_equal(processes.finish(1, devices=4)[0], alone)


@pytest.mark.slow
def test_two_processes_equal_one(processes: Processes, alone: dict[str, np.ndarray]) -> None:
    assert_equal(processes.finish(2)[0], alone)


@pytest.mark.slow
@pytest.mark.parametrize("left", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_resumes_after_losing_a_process(
    left: int, processes: Processes, alone: dict[str, np.ndarray]
) -> None:
    first, second = processes.start(2, waiting=1)
    wait_for(second, "waiting")
    second.send_signal(signal.SIGKILL)
    _, complaint = first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == EXIT_PEER_LOST, complaint
    assert "gtddp: process 0 of 2 stops: another process of this run is gone (" in complaint
    assert "Start the run again to resume from its newest checkpoint" in complaint
    found, said = processes.finish(left)
    assert "\nresumed at step " in f"\n{said}"
    assert_equal(found, alone)


@pytest.mark.slow
def test_processes_exit_when_one_hangs(processes: Processes) -> None:
    first, second = processes.start(2, waiting=1)
    wait_for(second, "waiting")
    second.send_signal(signal.SIGSTOP)
    _, complaint = first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == EXIT_PEER_LOST, complaint
    assert "stops: no progress for 60 s, another process of this run hangs." in complaint


@pytest.mark.slow
def test_processes_exit_when_the_first_one_is_lost(processes: Processes) -> None:
    """Either a collective fails first, or JAX notices the lost coordinator and aborts."""
    first, second = processes.start(2, waiting=0)
    wait_for(first, "waiting")
    first.send_signal(signal.SIGKILL)
    _, complaint = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode in (EXIT_PEER_LOST, -signal.SIGABRT), complaint
    assert "another process of this run is gone" in complaint or "another task died" in complaint


@pytest.mark.slow
def test_a_process_without_peers_reports_it(run_python: RunPython) -> None:
    code = (
        "from gtddp_lab.core import distributed\n"
        "place = distributed.ProcessCoordinates('127.0.0.1:9', 2, 1)\n"
        "distributed.join_processes(place, timeout=3)\n"
    )
    result = run_python("-c", code, timeout=60)
    assert result.returncode == EXIT_PEER_LOST
    assert "gtddp: the processes did not all meet at 127.0.0.1:9 within 3 s" in result.stderr


def test_joining_without_a_cluster_is_refused(run_python: RunPython) -> None:
    code = (
        "from gtddp_lab.core import distributed\n"
        "try:\n"
        "    distributed.join_processes(distributed.ProcessCoordinates())\n"
        "except distributed.DistributedError as error:\n"
        "    print(error)\n"
    )
    result = run_python("-c", code, timeout=60)
    assert result.stdout.startswith("no Slurm, Open MPI or Kubernetes job was found")
