"""Draws learned_placement.png and prints the table of docs/game.md, "Learned placement".

python docs/pictures/learned_placement.py [--quick] [DATASET ...]     (needs the extra `train`)

The committed picture is of `digits fashion_mnist`.

A block of three dense layers has a dense layer on its shortcut, which acts beside the first, the
second or the third, or wherever a bandit puts it. Every placement starts from the same parameters
and sees the same batches; all seeds train at once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import gtddp_jax as gt
from gtddp_lab import data

WIDTH, PLACEMENTS, BATCH, SUBSET = 32, 3, 32, 5000
QUICK = "--quick" in sys.argv
"""Whether to train one base for a few steps only, to see that the script works."""

SEEDS, STEPS = (2, 10) if QUICK else (8, 900)
BASES: dict[str, Any] = {
    "Adam 0.003": gt.curvature.Adam(3e-3),
    "SGD 0.03, momentum 0.9": gt.curvature.SGD(0.03, 0.9),
}
if QUICK:
    BASES.pop("Adam 0.003")
COLOURS = ("#0072B2", "#E69F00", "#009E73")


class Course(NamedTuple):
    """What a method did, [seeds, steps] and [seeds, steps, placements]."""

    losses: np.ndarray
    probabilities: np.ndarray | None


def network(at: int | str, classes: int) -> gt.Network:
    """One residual block with a player on its shortcut."""
    body = [nn.Dense(WIDTH), nn.relu, nn.Dense(WIDTH), nn.relu, nn.Dense(WIDTH)]
    block = gt.Residual(body, nn.Dense(WIDTH), at=at)
    return gt.Network([nn.Dense(WIDTH), nn.relu, block, nn.relu, nn.Dense(classes)])


def train(images: data.Dataset, curvature: Any, at: int | str) -> Course:
    """Train all seeds with one placement, or with the bandit."""
    net = network(at, images.classes)
    loss = optax.softmax_cross_entropy_with_integer_labels
    tx = gt.gtddp(net, loss, curvature)
    count = min(SUBSET, len(images.train_labels))
    x = jnp.asarray(images.train_images[:count].reshape(count, -1))
    y = jnp.asarray(images.train_labels[:count])

    def run(seed: jax.Array) -> tuple[jax.Array, Any]:
        # The order of the players, and so what `init` draws, depends on the placement.
        key = jax.random.fold_in(jax.random.key(0), seed)
        params = network(0, images.classes).init(key, x[:1])
        state: Any = tx.init(params)
        if at == "bandit":
            key = jax.random.key_data(jax.random.fold_in(jax.random.key(1), seed))
            state = state._replace(placement=state.placement._replace(key=key))
        rows = jax.random.randint(
            jax.random.fold_in(jax.random.key(2), seed), (STEPS, BATCH), 0, count
        )

        def step(carry: tuple[Any, Any], rows: jax.Array) -> tuple[tuple[Any, Any], Any]:
            params, state = carry
            updates, state = tx.update(None, state, params, batch=(x[rows], y[rows]))
            after = optax.apply_updates(params, updates)
            return (after, state), (state.report.loss, state.report.placement_probabilities)

        return jax.lax.scan(step, (params, state), rows)[1]

    losses, probabilities = jax.jit(jax.vmap(run))(jnp.arange(SEEDS))
    return Course(np.asarray(losses), None if probabilities is None else np.asarray(probabilities))


def log_ratio(course: Course, reference: Course, steps: slice) -> str:
    """Mean log-ratio of the training loss over seeds, with twice its standard error."""
    values = np.log(course.losses[:, steps].mean(1) / reference.losses[:, steps].mean(1))
    return f"{values.mean():+.3f} ± {2 * values.std(ddof=1) / len(values) ** 0.5:.3f}"


def draw(panels: Sequence[Axes], dataset: str) -> None:
    """Train on a data set, print the rows of the table, draw a panel for each base."""
    images = data.load_dataset(dataset)
    for panel, (name, curvature) in zip(panels, BASES.items(), strict=True):
        courses = {at: train(images, curvature, at) for at in [*range(PLACEMENTS), "bandit"]}
        for at, course in courses.items():
            cells = [
                log_ratio(course, courses[0], part) for part in (slice(0, None), slice(-100, None))
            ]
            print(f"| {dataset} | {name} | {at} | {' | '.join(cells)} |", flush=True)
        probabilities = courses["bandit"].probabilities
        assert probabilities is not None
        print("last probabilities:", probabilities[:, -1].mean(0), probabilities[:, -1].std(0))
        for placement, colour in enumerate(COLOURS):
            of_seeds = probabilities[:, :, placement]
            panel.plot(of_seeds.T, color=colour, lw=0.5, alpha=0.4)
            panel.plot(of_seeds.mean(0), color=colour, lw=2, label=f"beside layer {placement + 1}")
        panel.axhline(1 / PLACEMENTS, color="#555555", lw=0.8, ls=":")
        panel.set(title=f"{dataset}, {name}", xlabel="step", ylim=(0, 1))


def main(datasets: Sequence[str]) -> None:
    """Train, print the table, draw the picture: one row of panels for each data set."""
    figure = Figure(figsize=(8, 3 * len(datasets)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(datasets), len(BASES), sharex=True, sharey=True, squeeze=False)
    print("| data | base | placement | all steps | last 100 steps |\n|---|---|---|---|---|")
    for panels, dataset in zip(grid, datasets, strict=True):
        draw(panels, dataset)
        panels[0].set_ylabel("probability")
    grid[0, 0].legend(fontsize=8)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main([argument for argument in sys.argv[1:] if argument != "--quick"] or ["digits"])
