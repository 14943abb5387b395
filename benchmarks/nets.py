"""Networks shared by the benchmarks, with the shape of a batch for each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab import networks


class Case(NamedTuple):
    """A network and the shape of its batch."""

    net: gt.Network
    shape: tuple[int, ...]


def conv_block(width: int) -> list[Any]:
    """The paper's block: a skip connection over three 3x3 convolutions (Fig. 5), and its ReLU."""
    style = networks.BlockStyle(norm="none")
    return style.block_layers(width, convolutions=3, inputs=width)


def one_block_case(width: int, size: int, channels: int, batch: int) -> Case:
    """One residual block, the paper's network for DIGITS, MNIST and SVHN."""
    return Case(networks.residual_conv(10, width), (batch, size, size, channels))


def four_blocks_case(batch: int) -> Case:
    """Four residual blocks, the paper's network for CIFAR-10."""
    return Case(networks.four_blocks(10, norm="none"), (batch, 32, 32, 3))


def mlp_case(batch: int) -> Case:
    """A multilayer perceptron with one residual block."""
    body = [nn.Dense(512), nn.relu, nn.Dense(512)]
    layers = [nn.Dense(512), nn.relu, gt.Residual(body), nn.relu, nn.Dense(10)]
    return Case(gt.Network(layers), (batch, 784))


CASES: dict[str, Callable[[], Case]] = {
    "digits 8x8x16, B=8": lambda: one_block_case(16, 8, 1, 8),
    "mlp 784-512, B=128": lambda: mlp_case(128),
    "1 block 28x28x16, B=128": lambda: one_block_case(16, 28, 1, 128),
    "1 block 32x32x32, B=128": lambda: one_block_case(32, 32, 3, 128),
    "4 blocks 32x32, B=128": lambda: four_blocks_case(128),
}


def random_batch(case: Case, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """A random batch (inputs, integer labels)."""
    rng = np.random.default_rng(seed)
    inputs = jnp.asarray(rng.normal(size=case.shape), jnp.float32)
    return inputs, jnp.asarray(rng.integers(0, 10, case.shape[0]))
