"""A run that a test kills: ``killed_run.py FOLDER GAME EPOCHS`` goes on from what is in FOLDER.

Says ``saving STEP`` when a save has begun, which means that the one before is complete.
"""

import sys
from pathlib import Path

import flax.linen as nn
import numpy as np

import gtddp_jax as gt
from gtddp_jax.training.checkpoints import Checkpoints
from gtddp_jax.training.data import Dataset, Feed
from gtddp_jax.training.methods import method
from gtddp_jax.training.networks import flatten
from gtddp_jax.training.records import Progress
from gtddp_jax.training.runner import Plan, run
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.trainer import Trainer

STEPS_PER_EPOCH = 16


def build(game: str) -> Trainer:
    """A method on random images, with everything that draws random numbers."""
    rng = np.random.default_rng(0)
    images = rng.random((80, 8, 8, 1), np.float32)
    labels = np.arange(80, dtype=np.int32) % 3
    feed = Feed(Dataset("noise", images[:64], labels[:64], images[64:], labels[64:], 3), "crop")
    net = gt.Network([flatten, nn.Dense(8), nn.BatchNorm(), nn.tanh, nn.Dropout(0.2), nn.Dense(3)])
    return Trainer(method("adam", game), net, feed, Settings(0.01), batch_size=4)


def main(folder: Path, game: str, epochs: int) -> None:
    """Trains to the end."""
    plan = Plan(epochs, log_every=4, checkpoint_every=10)
    with Checkpoints(folder) as kept:
        for event in run(build(game), (0,), plan, kept):
            if isinstance(event, Progress) and plan.saves_at(event.step, STEPS_PER_EPOCH):
                print(f"saving {event.step}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
