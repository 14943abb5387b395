"""Step time of GT-DDP-Adam against batch size and depth, which should be straight lines.

Run as `python benchmarks/scaling.py [--rounds N]`.
"""

import argparse
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from nets import Case, batch_of, block
from step_time import LOSS, game_step

import gtddp_jax as gt
from gtddp_jax.evidence.timing import compiled, interleaved
from gtddp_jax.training.networks import pool


def stack(blocks: int, batch: int) -> Case:
    """A residual net on 14x14 images."""
    layers: list[Any] = [nn.Conv(16, (3, 3)), nn.relu]
    for _ in range(blocks):
        layers += block(16)
    return Case(gt.Network([*layers, pool, nn.Dense(10)]), (batch, 14, 14, 1))


def row(cases: dict[str, Case], rounds: int) -> None:
    """Prints milliseconds of each case, and per unit of its size."""
    steps = {}
    for name, case in cases.items():
        batch = batch_of(case)
        params = case.net.init(jax.random.key(0), batch[0][:1])
        tx = gt.adam(case.net, LOSS, 1e-3)
        steps[name], _ = compiled(game_step(tx), params, tx.init(params), batch)
    for name, seconds in interleaved(steps, rounds).items():
        ms = float(np.median(seconds)) * 1e3
        print(f"    {name:>4s}: {ms:8.2f} ms, {ms / int(name):6.3f} ms each", flush=True)


def main() -> None:
    """Prints both series."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    print("batch size, 2 blocks")
    row({str(batch): stack(2, batch) for batch in (32, 64, 128, 256)}, rounds)
    print("blocks, batch 32")
    row({str(blocks): stack(blocks, 32) for blocks in (1, 2, 4, 8)}, rounds)


if __name__ == "__main__":
    main()
