"""Step time of GT-DDP-Adam against batch size and depth; both should be straight lines.

python benchmarks/scaling.py [--rounds N]
"""

import argparse
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from nets import Case, conv_block, random_batch
from step_time import LOSS

import gtddp_jax as gt
from gtddp_lab.networks import pool
from gtddp_lab.studies.step_timing import batch_update_step, compile_step, time_interleaved


def stacked_blocks(blocks: int, batch: int) -> Case:
    """A residual network on 14x14 images."""
    layers: list[Any] = [nn.Conv(16, (3, 3)), nn.relu]
    for _ in range(blocks):
        layers += conv_block(16)
    return Case(gt.Network([*layers, pool, nn.Dense(10)]), (batch, 14, 14, 1))


def print_series(cases: dict[str, Case], rounds: int) -> None:
    """Print milliseconds of each case, and per unit of its size."""
    steps = {}
    for name, case in cases.items():
        batch = random_batch(case)
        params = case.net.init(jax.random.key(0), batch[0][:1])
        tx = gt.adam(case.net, LOSS, 1e-3)
        steps[name], _ = compile_step(batch_update_step(tx), params, tx.init(params), batch)
    for name, seconds in time_interleaved(steps, rounds).items():
        ms = float(np.median(seconds)) * 1e3
        print(f"    {name:>4s}: {ms:8.2f} ms, {ms / int(name):6.3f} ms per unit", flush=True)


def main() -> None:
    """Print both series."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    print("batch size, 2 blocks")
    print_series({str(batch): stacked_blocks(2, batch) for batch in (32, 64, 128, 256)}, rounds)
    print("blocks, batch 32")
    print_series({str(blocks): stacked_blocks(blocks, 32) for blocks in (1, 2, 4, 8)}, rounds)


if __name__ == "__main__":
    main()
