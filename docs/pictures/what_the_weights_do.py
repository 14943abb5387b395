"""Draws what_the_weights_do.png and prints the table of docs/what_the_weights_do.md.

python docs/pictures/what_the_weights_do.py [--quick]     (needs the extra `train`)

A small residual network learns the digits by Adam under the implicit game, batch 8, its weights by
`exact`, which solves the game exactly. At three moments the weight of every training image is
computed, in batches of 8. Images with a loss below 1e-6 are left out: in float32 their gradient has
vanished, so their weight is meaningless.
"""

import itertools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import gtddp_jax as gt
from gtddp_lab import data, networks

QUICK = "--quick" in sys.argv
"""Whether to train a perceptron for a few steps only, to see that the script works."""

NETWORK = "residual-mlp" if QUICK else "residual-conv"

MOMENTS = {"early, after 20 steps": 20, "middle, after 1 epoch": 179, "late, after 6 epochs": 1074}
if QUICK:
    MOMENTS = {name: steps // 200 for name, steps in MOMENTS.items()}
IMAGES = 80 if QUICK else None
BATCH = 8
SHOWN = 8
EDGES = (0.0, 0.1, 0.5, 0.9, 1.1, 2.0, float("inf"))
MIN_LOSS = 1e-6


class Snapshot(NamedTuple):
    """Every training image at one moment: its weight, its loss, its row in the data."""

    weights: np.ndarray
    losses: np.ndarray
    rows: np.ndarray


def train_snapshots(digits: data.Dataset) -> dict[str, Snapshot]:
    """Train, and record the weights at each of `MOMENTS`."""
    net = networks.build_network(NETWORK, digits.classes)
    loss = optax.softmax_cross_entropy_with_integer_labels
    game: Any = (optax.adam(3e-3), net, loss)
    weighting = gt.weighting.Exact(steps=8)
    tx = gt.implicit(*game, weighting=weighting)
    step, look = gt.make_update(tx), jax.jit(gt.implicit_weights(*game, weighting=weighting))
    x, y = jnp.asarray(digits.train_images[:IMAGES]), jnp.asarray(digits.train_labels[:IMAGES])
    params = net.init(jax.random.key(0), x[:1])
    state = tx.init(params)
    losses = jax.jit(lambda params: loss(net.apply(params, x), y))
    steps, snapshots = 0, {}
    for epoch in range(1, 99):
        for rows in data.epoch_order(0, epoch, len(y), BATCH):
            for name in [name for name, moment in MOMENTS.items() if moment == steps]:
                order = data.epoch_order(1, 0, len(y), BATCH)
                w = np.array([look(state, params, (x[r], y[r])) for r in order]).ravel()
                all_losses, all_rows = np.asarray(losses(params)), order.ravel()
                kept = all_losses[all_rows] >= MIN_LOSS
                rows_kept = all_rows[kept]
                snapshots[name] = Snapshot(w[kept], all_losses[rows_kept], rows_kept)
            if len(snapshots) == len(MOMENTS):
                return snapshots
            params, state = step(params, state, (x[rows], y[rows]))
            steps += 1
    raise AssertionError("the last moment lies beyond the last epoch")


def draw(digits: data.Dataset, snapshots: dict[str, Snapshot], path: Path) -> None:
    """Images with the smallest and the largest weights, and all weights over losses."""
    figure = Figure(figsize=(11, 8.4), dpi=90)
    FigureCanvasAgg(figure)
    columns: Any = figure.subfigures(1, 2, width_ratios=(2.2, 1))
    images, plots = columns
    halves = images.subfigures(2 * len(snapshots), 1)
    for i, (name, look) in enumerate(snapshots.items()):
        order = np.argsort(look.weights, kind="stable")
        ends = {"smallest": order[:SHOWN], "largest": order[::-1][:SHOWN]}
        for half, (end, chosen) in zip(halves[2 * i :], ends.items(), strict=False):
            half.text(0.02, 0.88, f"{name}: the {end} sample weights", fontsize=9, weight="bold")
            half.subplots_adjust(left=0.01, right=0.99, top=0.74, bottom=0.14)
            for axes, k in zip(half.subplots(1, SHOWN), chosen, strict=True):
                axes.imshow(digits.train_images[look.rows[k]].squeeze(), cmap="gray_r")
                axes.axis("off")
                axes.set_title(f"{look.weights[k]:.2f}", fontsize=9, pad=2)
                label = f"{digits.train_labels[look.rows[k]]}, loss {look.losses[k]:.1g}"
                axes.text(3.5, 9.2, label, fontsize=7, ha="center")
    axes_of = plots.subplots(len(snapshots), 1, sharex=True, sharey=True)
    plots.subplots_adjust(left=0.16, right=0.97, top=0.95, bottom=0.07, hspace=0.2)
    for axes, (name, look) in zip(axes_of, snapshots.items(), strict=True):
        axes.scatter(look.losses, look.weights, s=3, alpha=0.4, color="#0072B2")
        axes.axhline(1, color="black", linewidth=0.7)
        axes.set_title(name, fontsize=9)
        axes.set_xscale("log")
        axes.set_ylabel("sample weight", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    axes_of[-1].set_xlabel("loss of the image before the step", fontsize=8)
    figure.savefig(path)


def table(snapshots: dict[str, Snapshot]) -> str:
    """The share of images in each range of weights, and their mean loss."""
    bands = list(itertools.pairwise(EDGES))
    heads = [
        f"{low:g} to {high:g}" if high < EDGES[-1] else f"above {low:g}" for low, high in bands
    ]
    lines = [f"| sample weight | images | {' | '.join(heads)} |", "|---|---|" + "---|" * len(bands)]
    for name, look in snapshots.items():
        cells = [str(look.weights.size)]
        for low, high in bands:
            inside = (look.weights >= low) & (look.weights < high)
            share = f"{100 * inside.mean():.1f} %"
            cells.append(f"{share} ({look.losses[inside].mean():.2g})" if inside.any() else "none")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    dataset = data.load_dataset("digits")
    snapshots = train_snapshots(dataset)
    draw(dataset, snapshots, Path(__file__).with_suffix(".png"))
    print(table(snapshots))
