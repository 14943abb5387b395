"""Draws policies.png: what each stage knows about each sample in a step of the sequential game.

python docs/pictures/policies.py     (needs matplotlib and scikit-learn)
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import gtddp_jax as gt

RATE, STEPS, BATCH, SHOWN = 0.5, 20, 64, 10
TERMINAL = gt.terminal.ExactLoss(max_shift=1.0, bounds=(0.02, 10.0))


def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """One loss per sample."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def recursions(net: gt.Network, params: Any, batch: Any) -> tuple[np.ndarray, ...]:
    """alpha, Delta phi and w of every stage and sample, [T, B], as in docs/mathematics.md.

    The resulting step is compared with the library's.
    """
    x, y = batch
    expansion = TERMINAL.expand(lambda outputs: loss(outputs, y), net.apply(params, x))
    jacobians = jax.jacrev(lambda p: loss(net.apply(p, x), y))(params)  # G_i: leaves [B, ...]
    sample_gradients = [
        jax.vmap(lambda tree: ravel_pytree(tree)[0])({n: jacobians[n] for n in stage.players})
        for stage in net.stages
    ]
    pi, d = jnp.zeros(len(x)), jnp.ones(len(x))
    plans = []
    for g in reversed(sample_gradients):
        alpha = expansion.derivative(pi)
        k = -RATE * alpha @ g / len(x)
        rho = expansion.curvature * d * RATE * jnp.square(g).sum(1) / len(x)
        plans.insert(0, (alpha, k, pi, d))
        pi, d = pi + d * (g @ k), d * (1 - jnp.clip(rho, 0, 1))
    delta, changes, weights, moved = jnp.zeros(len(x)), [], [], {}
    for stage, g, (_, k, pi, d) in zip(net.stages, sample_gradients, plans, strict=True):
        w = expansion.derivative(pi + d * delta)
        step = -RATE * w @ g / len(x) if weights else k
        changes.append(delta)
        weights.append(w)
        moved |= ravel_pytree({n: params[n] for n in stage.players})[1](step)
        delta = delta + g @ step
    tx: Any = gt.sgd(net, loss, RATE, terminal=TERMINAL)
    updates, _ = tx.update(None, tx.init(params), params, batch=batch)
    actual, expected = ravel_pytree(updates)[0], ravel_pytree(moved)[0]
    assert jnp.linalg.norm(actual - expected) < 1e-4 * jnp.linalg.norm(expected)
    return tuple(map(np.asarray, ([alpha for alpha, *_ in plans], changes, weights)))


def main() -> None:
    """Train for some steps, then draw the next one."""
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    block = gt.Residual([nn.Dense(32), nn.relu, nn.Dense(32)])
    net = gt.Network([nn.Dense(32), nn.relu, block, nn.relu, nn.Dense(10)])
    x, y = jnp.asarray(pixels / 16, jnp.float32), jnp.asarray(labels)
    params = net.init(jax.random.key(0), x[:1])
    tx: Any = gt.sgd(net, loss, RATE)
    step, state = gt.make_update(tx), tx.init(params)
    for i in range(STEPS):
        rows = slice(i * 16, i * 16 + BATCH)
        params, state = step(params, state, (x[rows], y[rows]))
    rows = slice(1000, 1000 + BATCH)
    tables = recursions(net, params, (x[rows], y[rows]))
    losses = np.asarray(loss(net.apply(params, x[rows]), y[rows]))
    chosen = np.argsort(losses)[-SHOWN:][::-1]

    figure = Figure(figsize=(8.2, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharey=True)
    titles = (
        "α: what remains to do\nafter the later stages",
        "Δφ: change by\nthe earlier stages",
        "w: the sample weight\nin this stage",
    )
    for axes, values, title, middle in zip(panels, tables, titles, (1, 0, 1), strict=True):
        shown = axes.imshow(
            values[:, chosen].T, cmap="PuOr_r", norm=CenteredNorm(middle), aspect="auto"
        )
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(net.stages)), [" ".join(s.players) for s in net.stages])
        axes.tick_params(labelsize=7.5)
        axes.set_xlabel("stage", fontsize=9)
        figure.colorbar(shown, ax=axes, shrink=0.9).ax.tick_params(labelsize=8)
    panels[0].set_yticks(range(SHOWN), [f"{y[1000 + i]}, loss {losses[i]:.1f}" for i in chosen])
    panels[0].set_ylabel("digit", fontsize=9)
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
