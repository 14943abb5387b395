"""Run by test_distributed.py, once for every process: trains a tiny network with our loop.

python -m tests.training.processes_script FOLDER CHUNKS [COORDINATOR COUNT INDEX]

After so many chunks of steps the process says so and waits for its end, if that is not 0. Otherwise
it trains to the end, and process 0 leaves the parameters in FOLDER/params.npz.
"""

# ruff: noqa: E402  (what compiles quickly must be said before jax starts)

import os
import sys
import time
from pathlib import Path
from typing import Any

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"

import flax.linen as nn
import jax
import numpy as np

import gtddp_jax as gt
from gtddp_jax.training import data, distributed, peers
from gtddp_jax.training.checkpoints import Checkpoints
from gtddp_jax.training.methods import method
from gtddp_jax.training.networks import flatten
from gtddp_jax.training.placement import Placement
from gtddp_jax.training.records import Progress, Resumed
from gtddp_jax.training.runner import Plan, run
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.trainer import Trainer

PATIENCE_S = 60.0
PLAN = Plan(epochs=3, log_every=2, checkpoint_every=2)


def trainer() -> Trainer:
    rng = np.random.default_rng(0)
    images = rng.random((48, 3, 3, 1), np.float32)
    labels = (images[:, 0, 0, 0] * 3).astype(np.int32)
    dataset = data.Dataset("tiny", images[:40], labels[:40], images[40:], labels[40:], classes=3)
    block = gt.Residual([nn.Dense(8), nn.tanh])
    net = gt.Network([flatten, nn.Dense(8), nn.tanh, block, nn.Dense(3)])
    placement = Placement(distributed.data_mesh())
    feed = data.Feed(dataset, augmentation="crop", normalise=True, sharding=placement.whole)
    settings = Settings(learning_rate=0.01, rollout="linear", terminal="line", max_shift=1.0)
    return Trainer(method("sgd", "sequential"), net, feed, settings, 8, placement=placement)


def train(folder: Path, life: int) -> None:
    ready = trainer()
    state = ready.start((1,))
    ready.compile(state, ready.rows((1,), 0, 1))  # takes longer than a wait between steps should
    ready.score_train(state)
    ready.score_validation(state)
    with (
        peers.session(PATIENCE_S) as beat,
        Checkpoints(folder / "checkpoints", keep_best=0) as checkpoints,
    ):
        chunks = 0
        for event in run(ready, (1,), PLAN, checkpoints):
            beat()
            if isinstance(event, Resumed):
                print("resumed at step", event.step, flush=True)
            chunks += isinstance(event, Progress)
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
        coordinates = distributed.Coordinates(where[0], int(where[1]), int(where[2]))
        distributed.initialise(coordinates, timeout=60)
    train(Path(folder), int(life))


if __name__ == "__main__":
    main()
