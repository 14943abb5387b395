"""Cooperative blocks: two players with one input whose outputs are added (paper Sec. 6, Fig. 7).

Trains the paper's network of such blocks on scikit-learn's handwritten digits, from the same
initial parameters on the same batches, with

- EKFAC,
- GT-EKFAC, in which players know each other's curvature (Cor. 7),
- GT-DDP-EKFAC, in which they also respond to the steps of earlier layers,
- EKFAC with the true Gauss-Newton block of both players.

This is a short version of the study of Fig. 7b in docs/paper_results.md.

    python examples/cooperative_blocks.py [--epochs N] [--seeds N]
"""

import argparse

import jax
import jax.numpy as jnp

import gtddp_jax as gt
from gtddp_lab import networks
from gtddp_lab.data import load_dataset
from gtddp_lab.studies.figures import figure7b


def main():
    """Show the network, train with all methods, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    dataset = load_dataset("digits")
    net = networks.cooperative_network(dataset.classes)
    images = jnp.asarray(dataset.train_images[:100])
    print(gt.explain(net, net.init(jax.random.key(0), images), images))
    courses = figure7b.train_all_methods(dataset, options.seeds, options.epochs, net=net)
    for name, curves in courses.items():
        loss, accuracy = (curves[curve][:, -1].mean() for curve in ("train_loss", "test_accuracy"))
        print(f"{name:13} training loss {loss:.4f}, test accuracy {100 * accuracy:.1f}%")
    print(figure7b.order_verdict(courses))


if __name__ == "__main__":
    main()
