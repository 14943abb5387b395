"""The launch files of examples/cluster/: two real processes, and JAX's detection of clusters."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gtddp_lab.cli.options import TrainOptions
from gtddp_lab.cli.parse import parse_command_line
from tests.conftest import child_environment

CLUSTER = Path(__file__).resolve().parents[2] / "examples" / "cluster"
TIMEOUT_S = 280


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_the_flag_form_trains_in_two_processes(tmp_path: Path) -> None:
    """Their run equals that of one process, and one process can resume it."""
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**child_environment(), "PATH": os.pathsep.join(paths)}
    options = [
        "--base-only",
        "--optimizer",
        "adam",
        "--epochs",
        "1",
        "--batch-size",
        "64",
        "--seeds",
        "1",
    ]
    options += ["--schedule", "constant"]  # so that the epochs may be raised

    def gtddp(*command: str) -> str:
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            out, err = child.communicate(timeout=TIMEOUT_S)
        finally:
            child.terminate()  # the script ends its own children
        assert child.returncode == 0, err
        return out

    def losses(out: Path) -> list[float]:
        (results,) = out.glob("*/results.json")
        content = json.loads(results.read_text())
        assert content["status"] == "finished"
        return [epoch["train_loss"] for epoch in content["epochs"]]

    two, one = tmp_path / "two", tmp_path / "one"
    output = gtddp(str(CLUSTER / "flags.sh"), "2", str(free_port()), *options, "--out", str(two))
    assert output.count("Results in ") == 1  # only process 0 writes
    gtddp("gtddp", "train", *options, "--out", str(one))
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    (run,) = two.iterdir()
    gtddp("gtddp", "train", "--resume", str(run), "--epochs", "2")
    assert len(losses(two)) == 2


@pytest.mark.slow
def test_ctrl_c_in_one_process_stops_all(tmp_path: Path) -> None:
    where = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
    options = [
        "--base-only",
        "--optimizer",
        "adam",
        "--epochs",
        "200",
        "--batch-size",
        "64",
        "--seeds",
        "1",
    ]
    options += ["--out", str(tmp_path)]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "gtddp_lab", "train", *options, *where, "--process-id", index],
            env=child_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in ("0", "1")
    ]
    try:
        assert children[0].stdout is not None
        assert any("epoch 1/200" in line for line in children[0].stdout)
        children[1].send_signal(signal.SIGINT)
        said = [child.communicate(timeout=TIMEOUT_S) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [130, 130], said
    (results,) = tmp_path.glob("*/results.json")
    assert json.loads(results.read_text())["status"] == "interrupted"


PLACES = {
    "slurm": {
        "SLURM_JOB_ID": "17",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_PROCID": "{index}",
        "SLURM_LOCALID": "0",
    },
    "Open MPI 4": {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "{index}",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    },
}
"""Environment of a process in such a job."""

MEET = """
import jax
from gtddp_lab.core import distributed, peers
distributed.join_processes(distributed.ProcessCoordinates(), timeout=100)
with peers.peer_session() as beat:
    first = distributed.broadcast_text(f"sent by {jax.process_index()}")
    seen = distributed.any_process(jax.process_index() == 1)
    print(jax.process_index(), jax.process_count(), distributed.data_mesh().size, first, seen)
"""


@pytest.mark.slow
@pytest.mark.parametrize("cluster", PLACES)
def test_jax_asks_the_cluster(cluster: str) -> None:
    port = str(free_port())
    children = []
    for index in range(2):
        place = {key: value.format(index=index) for key, value in PLACES[cluster].items()}
        environment = {**child_environment(), **place, "JAX_COORDINATOR_PORT": port}
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", MEET],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [child.communicate(timeout=TIMEOUT_S) for child in children]
    finally:
        for child in children:
            child.kill()
    for index, (out, err) in enumerate(said):
        assert out.splitlines()[-1:] == [f"{index} 2 2 sent by 0 True"], err


@pytest.mark.parametrize("name", ["flags.sh", "openmpi.sh", "slurm.sbatch"])
def test_scripts_are_well_formed(name: str) -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / name)], check=True, timeout=20)


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_options_in_launch_files_exist(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if "gtddp train" in line]
    used = re.findall(r"--[a-z][a-z-]+", " ".join(re.sub(r"^.*gtddp train", "", s) for s in lines))
    known = {f"--{name.replace('_', '-')}" for name in TrainOptions.__dataclass_fields__}
    assert used or path.name == "openmpi.sh"  # it builds them before
    assert set(used) <= known


def test_the_kubernetes_job_names_its_parts() -> None:
    parts = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))
    kinds = {part["kind"]: part for part in parts}
    spec = kinds["Job"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 4
    pod = spec["template"]["spec"]
    assert pod["serviceAccountName"] == kinds["ServiceAccount"]["metadata"]["name"]
    assert pod["subdomain"] == kinds["Service"]["metadata"]["name"]
    line = "train --distributed --data-dir /shared/data --dataset cifar10 --out /shared/runs"
    assert line in pod["containers"][0]["args"][0]
    options = parse_command_line(line.split())
    assert isinstance(options, TrainOptions) and options.distributed
