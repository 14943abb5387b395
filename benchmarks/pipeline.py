"""Step time with batches from the input pipeline against a fixed batch on the device, interleaved.

Four steps are compared with the same plain Adam step: a fixed batch; rows picked from the data in
device memory; the same normalised; augmented and normalised. A new row of indices comes from the
host at every step, as in training.

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

from gtddp_jax.evidence.timing import interleaved, ratio
from gtddp_jax.training import data

SAMPLES = 20_000
FEEDS: dict[str, dict[str, Any]] = {
    "picked": {},
    "normalised": {"normalise": True},
    "crop-flip": {"normalise": True, "augmentation": "crop-flip"},
}
IMAGE_CASES = [name for name in CASES if not name.startswith("mlp")]


def noise(shape: tuple[int, ...]) -> data.Dataset:
    """A data set of the size and shape of a real one: the time does not depend on the pixels."""
    rng = np.random.default_rng(0)
    images = rng.random((SAMPLES, *shape), np.float32)
    labels = rng.integers(0, 10, SAMPLES, dtype=np.int32)
    return data.Dataset("noise", images, labels, images[:10], labels[:10], classes=10)


def rows_of(batch: int) -> Iterator[tuple[int, np.ndarray]]:
    """The indices of every step of a run, with the number of the step."""
    for taken in itertools.count():
        epoch, step = data.position(taken, SAMPLES, batch)
        if step == 0:
            order = data.epoch_order(0, epoch, SAMPLES, batch)
        yield taken, order[step]


def measure(name: str, rounds: int) -> list[str]:
    """The plain step's milliseconds, and the ratios of the steps that are fed."""
    case = CASES[name]()
    batch, *shape = case.shape
    dataset, tx = noise(tuple(shape)), optax.adam(1e-3)
    step = plain_step(case.net, tx)
    first = jax.device_put((dataset.train_images[:batch], dataset.train_labels[:batch]))
    params = case.net.init(jax.random.key(0), first[0])
    state = tx.init(params)

    fixed = jax.jit(step)
    steps: dict[str, Callable[[], Any]] = {
        "fixed": lambda: jax.block_until_ready(fixed(params, state, first))
    }
    for label, options in FEEDS.items():
        feed = data.Feed(dataset, **options)

        def from_rows(params: Any, state: Any, part: data.Part, rows: Any, taken: Any, feed=feed):
            return step(params, state, feed.batch(part, rows, taken))

        run, following = jax.jit(from_rows), rows_of(batch)

        def fed(run: Any = run, feed: Any = feed, following: Any = following) -> Any:
            taken, rows = next(following)
            return jax.block_until_ready(run(params, state, feed.train, rows, taken))

        steps[label] = fed
    seconds = interleaved(steps, rounds)
    plain = seconds.pop("fixed")
    return [
        f"{1e3 * np.median(plain):.1f} ms",
        *(f"{ratio(s, plain):.3f}" for s in seconds.values()),
    ]


def main() -> None:
    """Prints a table row for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    arguments = parser.parse_args()
    print(f"| network | fixed batch | {' | '.join(FEEDS)} |")
    print("|---" * (2 + len(FEEDS)) + "|")
    for name in IMAGE_CASES:
        if arguments.only in name:
            print(f"| {name} | {' | '.join(measure(name, arguments.rounds))} |", flush=True)


if __name__ == "__main__":
    main()
