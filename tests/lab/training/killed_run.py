"""A run that a test kills: ``killed_run.py FOLDER GAME EPOCHS`` resumes from FOLDER.

Prints ``saving STEP`` when a save has started; the save before it is then complete.
"""

import sys
from pathlib import Path

import flax.linen as nn
import numpy as np

import gtddp_jax as gt
from gtddp_lab.data import Dataset, Feed
from gtddp_lab.networks import flatten
from gtddp_lab.training.checkpoints import Checkpoints
from gtddp_lab.training.methods import build_method
from gtddp_lab.training.records import TrainProgress
from gtddp_lab.training.runner import RunPlan, run_unit
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.trainer import Trainer

STEPS_PER_EPOCH = 16


def build(game: str) -> Trainer:
    """A trainer on random images that uses every source of randomness."""
    rng = np.random.default_rng(0)
    images = rng.random((80, 8, 8, 1), np.float32)
    labels = np.arange(80, dtype=np.int32) % 3
    feed = Feed(Dataset("noise", images[:64], labels[:64], images[64:], labels[64:], 3), "crop")
    net = gt.Network([flatten, nn.Dense(8), nn.BatchNorm(), nn.tanh, nn.Dropout(0.2), nn.Dense(3)])
    return Trainer(build_method("adam", game), net, feed, TrainSettings(0.01), batch_size=4)


def main(folder: Path, game: str, epochs: int) -> None:
    """Trains to the last epoch."""
    plan = RunPlan(epochs, log_every=4, checkpoint_every=10)
    with Checkpoints(folder) as kept:
        for event in run_unit(build(game), (0,), plan, kept):
            if isinstance(event, TrainProgress) and plan.saves_at(event.step, STEPS_PER_EPOCH):
                print(f"saving {event.step}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
