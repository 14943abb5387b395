"""ResNet-18 with batch normalisation on images in the format of CIFAR-10, with GT-DDP-SGD.

    python examples/cifar_resnet18.py FOLDER

FOLDER contains `cifar-10-python.tar.gz` or `cifar-10-binary.tar.gz`, or the extracted files; with
--own, other images in the same format. The data lies in device memory: each step selects, crops,
mirrors and normalises its batch inside `jit`. Meant for an accelerator.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_lab import data, networks
from gtddp_lab.data import official

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--own", action="store_true", help="other images in the same format")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--batch-size", type=int, default=128)
parser.add_argument("--width", type=int, default=64, help="channels of the stem")
parser.add_argument("--learning-rate", type=float, default=0.1)
arguments = parser.parse_args()

raw = official.read_original_files("cifar10", arguments.folder, custom_data=arguments.own)
feed = data.Feed(official.to_dataset("cifar10", raw), augmentation="crop-flip", normalise=True)
per_epoch = data.steps_per_epoch(feed.samples, arguments.batch_size)

loss = optax.softmax_cross_entropy_with_integer_labels
net = networks.build_network("resnet18", classes=10, width=arguments.width)
variables = net.init_variables(jax.random.key(0), feed.train.images[:1])
params = variables["params"]
rate = optax.cosine_decay_schedule(arguments.learning_rate, arguments.epochs * per_epoch)
tx = gt.sgd(net, loss, rate, momentum=0.9, batch_stats=variables["batch_stats"])
state = tx.init(params)


@jax.jit
def step(params, state, split, rows, steps_taken):
    """Build the batch from the training split and the indices of its rows, and make a step."""
    batch = feed.batch(split, rows, steps_taken)
    updates, state = tx.update(None, state, params, batch=batch)
    return optax.apply_updates(params, updates), state


@jax.jit
def count_correct(params, batch_stats, images, labels):
    """Count correctly classified images, with the running averages of the statistics."""
    outputs = net.apply(params, feed.normalise(images), batch_stats=batch_stats)
    return (outputs.argmax(-1) == labels).sum()


for epoch in range(1, arguments.epochs + 1):
    order = data.epoch_order(0, epoch, feed.samples, arguments.batch_size)
    for number, rows in enumerate(order):
        steps_taken = (epoch - 1) * per_epoch + number
        params, state = step(params, state, feed.train, rows, steps_taken)
    hits = sum(
        int(
            count_correct(
                params, state.batch_stats, *(array[i : i + 1000] for array in feed.validation)
            )
        )
        for i in range(0, len(feed.validation.labels), 1000)
    )
    accuracy = hits / len(feed.validation.labels)
    report = state.report
    assert np.isfinite(report.loss), "training diverged"
    print(
        f"epoch {epoch:3}  last batch: loss {report.loss:.4f}, sample weights "
        f"{report.sample_weight_min:.2f} to {report.sample_weight_max:.2f}  "
        f"test accuracy {accuracy:.1%}",
        flush=True,
    )
