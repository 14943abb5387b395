"""Cooperative blocks: two players with one input whose outputs are added (paper Sec. 6, Fig. 7).

Trains the paper's network of such blocks on scikit-learn's handwritten digits with EKFAC, with
GT-EKFAC (players know each other's curvature, Cor. 7), with GT-DDP-EKFAC (and answer to what
earlier layers do) and with the true Gauss-Newton block of the players, from the same starts on the
same batches. It is a short version of the study behind Fig. 7b in docs/evidence.md.

    python examples/cooperative_blocks.py [--epochs N] [--seeds N]
"""

import argparse

import jax
import jax.numpy as jnp

from gtddp_jax.evidence.figures import figure7b
from gtddp_jax.training import networks
from gtddp_jax.training.data import load


def main():
    """Shows the network, trains by all methods, prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    data = load("digits")
    net = networks.cooperative(data.classes)
    print(net.explain(net.init(jax.random.key(0), jnp.asarray(data.train_images[:1]))))
    found = figure7b.curves(data, options.seeds, options.epochs, net=net)
    for name, measured in found.items():
        loss, right = (measured[what][:, -1].mean() for what in ("train_loss", "test_accuracy"))
        print(f"{name:13} training loss {loss:.4f}, test accuracy {100 * right:.1f}%")
    print(figure7b.verdict(found))


if __name__ == "__main__":
    main()
