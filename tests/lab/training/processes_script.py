"""Run by test_distributed.py in every process: trains a tiny network.

python -m tests.lab.training.processes_script FOLDER CHUNKS [COORDINATOR COUNT INDEX]

If CHUNKS is not 0, the process prints a line after that many chunks of steps and waits to be
killed. Otherwise it trains to the end, and process 0 writes the parameters to FOLDER/params.npz.
"""

import sys
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import gtddp_jax as gt
from gtddp_lab import data
from gtddp_lab.core import distributed, peers
from gtddp_lab.networks import flatten
from gtddp_lab.training.checkpoints import Checkpoints
from gtddp_lab.training.methods import build_method
from gtddp_lab.training.placement import Placement
from gtddp_lab.training.records import TrainProgress, UnitResumed
from gtddp_lab.training.runner import RunPlan, run_unit
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.trainer import Trainer

PATIENCE_S = 60.0
PLAN = RunPlan(epochs=3, log_every=2, checkpoint_every=2)


def trainer() -> Trainer:
    rng = np.random.default_rng(0)
    images = rng.random((48, 3, 3, 1), np.float32)
    labels = (images[:, 0, 0, 0] * 3).astype(np.int32)
    dataset = data.Dataset("tiny", images[:40], labels[:40], images[40:], labels[40:], classes=3)
    block = gt.Residual([nn.Dense(8), nn.tanh])
    net = gt.Network([flatten, nn.Dense(8), nn.tanh, block, nn.Dense(3)])
    placement = Placement(distributed.data_mesh())
    feed = data.Feed(
        dataset, augmentation="crop", normalise=True, sharding=placement.state_sharding
    )
    settings = TrainSettings(
        learning_rate=0.01, rollout="linear", terminal="exact_loss", max_shift=1.0
    )
    return Trainer(build_method("sgd", "sequential"), net, feed, settings, 8, placement=placement)


def train(folder: Path, life: int) -> None:
    ready = trainer()
    state = ready.start((1,))
    ready.compile(state, ready.rows((1,), 0, 1))  # takes longer than a wait between steps should
    ready.score_train(state)
    ready.score_validation(state)
    with (
        peers.peer_session(PATIENCE_S) as beat,
        Checkpoints(folder / "checkpoints", keep_best=0) as checkpoints,
    ):
        chunks = 0
        for event in run_unit(ready, (1,), PLAN, checkpoints):
            beat()
            if isinstance(event, UnitResumed):
                print("resumed at step", event.step, flush=True)
            chunks += isinstance(event, TrainProgress)
            if life and chunks == life:
                print("waiting", flush=True)
                time.sleep(600)
        saved = checkpoints.restore(ready.start((1,)))
        assert saved is not None
    if jax.process_index() == 0:
        leaves = jax.tree_util.tree_leaves_with_path(saved.state.params)
        arrays: dict[str, Any] = {str(path): np.asarray(leaf) for path, leaf in leaves}
        np.savez(folder / "params.npz", **arrays)
    print("finished at step", saved.step, flush=True)


def main() -> None:
    folder, life, *where = sys.argv[1:]
    if where:
        coordinates = distributed.ProcessCoordinates(where[0], int(where[1]), int(where[2]))
        distributed.join_processes(coordinates, timeout=60)
    train(Path(folder), int(life))


if __name__ == "__main__":
    main()
