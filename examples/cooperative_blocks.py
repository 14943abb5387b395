"""Cooperative blocks: two players with one input whose outputs are added (paper Sec. 6, Fig. 7).

Trains the paper's network of such blocks (three convolutional ones, one dense one, one dense layer,
tanh, batch 12) on scikit-learn's handwritten digits with EKFAC, with GT-EKFAC (players know each
other's curvature, Cor. 7) and with GT-DDP-EKFAC (and answer to what earlier layers do), from the
same starts on the same batches, and plots the comparison of Fig. 7b. A fourth curve is the true
Gauss-Newton block of the players; docs/kronecker.md has the difference.

    python examples/cooperative_blocks.py [--epochs N] [--seeds N] [--out FILE.png]
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_jax.training import networks
from gtddp_jax.training.data import load

RATE, DAMPING, BATCH = 1e-3, 0.03, 12  # the best training loss of EKFAC in a small grid
loss = optax.softmax_cross_entropy_with_integer_labels


def methods(net):
    """The three optimizers of Fig. 7b, and EKFAC with the joint block."""
    common = {"learning_rate": RATE, "damping": DAMPING, "momentum": 0.9}
    return {
        "EKFAC": gt.ekfac(net, loss, **common, feedback=False),
        "GT-EKFAC": gt.ekfac(net, loss, **common, feedback=False, cooperative="rescale"),
        "GT-DDP-EKFAC": gt.ekfac(net, loss, **common, cooperative="rescale"),
        "joint EKFAC": gt.ekfac(net, loss, **common, feedback=False, cooperative="joint"),
    }


def train(net, tx, data, seeds, epochs):
    """Returns the training loss and the validation accuracy, [seeds, epochs] each."""
    step = gt.make_update(tx)

    @jax.jit
    def score(params):
        train_loss = loss(net.apply(params, data.train_images), data.train_labels).mean()
        right = net.apply(params, data.validation_images).argmax(-1) == data.validation_labels
        return train_loss, right.mean()

    results = []
    for seed in range(seeds):
        params = net.init(jax.random.key(seed), jnp.asarray(data.train_images[:1]))
        state, rng, scores = tx.init(params), np.random.default_rng(seed), []
        for _ in range(epochs):
            order = rng.permutation(len(data.train_images))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                index = order[start : start + BATCH]
                batch = data.train_images[index], data.train_labels[index]
                params, state = step(params, state, batch)
            scores.append(jax.device_get(score(params)))
        results.append(scores)
    found = np.array(results, float)
    return found[..., 0], found[..., 1]


def main():
    """Trains, prints and plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="cooperative_blocks.png")
    options = parser.parse_args()
    net, data = networks.build("cooperative", 10), load("digits")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    base = None
    for name, tx in methods(net).items():
        losses, right = train(net, tx, data, options.seeds, options.epochs)
        base = losses if base is None else base
        ratio = np.log(losses[:, -1] / base[:, -1])  # paired: same seeds
        error = ratio.std(ddof=1) / len(ratio) ** 0.5 if len(ratio) > 1 else np.nan
        print(
            f"{name:13} training loss {losses[:, -1].mean():.4f} ± {losses[:, -1].std():.4f}, "
            f"log-ratio to EKFAC {ratio.mean():+.2f} ± {error:.2f} (standard error), "
            f"test accuracy {100 * right[:, -1].mean():.1f}% ± {100 * right[:, -1].std():.1f}",
            flush=True,
        )
        epochs = np.arange(1, options.epochs + 1)
        for axis, values in zip(axes, (losses, 100 * right), strict=True):
            mean, spread = values.mean(0), values.std(0)
            axis.plot(epochs, mean, label=name)
            axis.fill_between(epochs, mean - spread, mean + spread, alpha=0.2)
    axes[0].set(xlabel="epoch", ylabel="training loss", yscale="log")
    axes[1].set(xlabel="epoch", ylabel="test accuracy, %")
    axes[0].legend()
    figure.savefig(options.out, dpi=120)
    print(f"Curves: {options.out}")


if __name__ == "__main__":
    main()
