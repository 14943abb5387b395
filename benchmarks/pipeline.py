"""Step time with batches from the input pipeline, compared with a fixed batch on the device.

Four variants of one plain Adam step are timed in turns: a fixed batch; a batch selected from the
data in device memory; the same with normalization; the same with augmentation and normalization. As
in training, every step receives new indices from the host.

    python benchmarks/pipeline.py [--rounds N] [--only TEXT]
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from nets import CASES
from step_time import plain_step

from gtddp_lab import data
from gtddp_lab.studies.step_timing import median_ratio, time_interleaved

SAMPLES = 20_000
FEEDS: dict[str, dict[str, Any]] = {
    "picked": {},
    "normalised": {"normalise": True},
    "crop-flip": {"normalise": True, "augmentation": "crop-flip"},
}
IMAGE_CASES = [name for name in CASES if not name.startswith("mlp")]


def noise_dataset(shape: tuple[int, ...]) -> data.Dataset:
    """A data set with the size and shape of a real one; times do not depend on the pixels."""
    rng = np.random.default_rng(0)
    images = rng.random((SAMPLES, *shape), np.float32)
    labels = rng.integers(0, 10, SAMPLES, dtype=np.int32)
    return data.Dataset("noise", images, labels, images[:10], labels[:10], classes=10)


def rows_of_run(batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """The number and the indices of every step of a run."""
    for steps_taken in itertools.count():
        epoch, step = data.data_position(steps_taken, SAMPLES, batch_size)
        if step == 0:
            order = data.epoch_order(0, epoch, SAMPLES, batch_size)
        yield steps_taken, order[step]


def fed_step(
    step: Callable[..., Any], feed: data.Feed, params: Any, state: Any, batch_size: int
) -> Callable[[], Any]:
    """A step whose batch comes from the feed; each call takes the next batch of the run."""

    @jax.jit
    def step_on_rows(split: data.DataSplit, rows: Any, steps_taken: Any) -> Any:
        return step(params, state, feed.batch(split, rows, steps_taken))

    run = rows_of_run(batch_size)

    def next_step() -> Any:
        steps_taken, rows = next(run)
        return jax.block_until_ready(step_on_rows(feed.train, rows, steps_taken))

    return next_step


def measure_case(name: str, rounds: int) -> list[str]:
    """The time of the step on a fixed batch, and the ratios of the other steps to it."""
    case = CASES[name]()
    batch_size, *shape = case.shape
    dataset, optimizer = noise_dataset(tuple(shape)), optax.adam(1e-3)
    step = plain_step(case.net, optimizer)
    batch = jax.device_put((dataset.train_images[:batch_size], dataset.train_labels[:batch_size]))
    params = case.net.init(jax.random.key(0), batch[0])
    state = optimizer.init(params)
    compiled = jax.jit(step)
    steps: dict[str, Callable[[], Any]] = {
        "fixed": lambda: jax.block_until_ready(compiled(params, state, batch))
    }
    for label, options in FEEDS.items():
        feed = data.Feed(dataset, **options)
        steps[label] = fed_step(step, feed, params, state, batch_size)
    # Taking turns spreads the noise of a busy machine evenly over all variants.
    seconds = time_interleaved(steps, rounds)
    fixed = seconds.pop("fixed")
    ratios = [f"{median_ratio(variant, fixed):.3f}" for variant in seconds.values()]
    return [f"{1e3 * np.median(fixed):.1f} ms", *ratios]


def main() -> None:
    """Prints one table row per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", default="", help="measure networks whose name contains this text")
    arguments = parser.parse_args()
    print(f"| network | fixed batch | {' | '.join(FEEDS)} |")
    print("|---" * (2 + len(FEEDS)) + "|")
    for name in IMAGE_CASES:
        if arguments.only in name:
            print(f"| {name} | {' | '.join(measure_case(name, arguments.rounds))} |", flush=True)


if __name__ == "__main__":
    main()
