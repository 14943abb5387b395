"""The command line, described in `__init__.py`."""

import argparse
import os
import sys

import jax

from tests.compiler_flags import COMPILER_FLAGS
from tests.properties import runner


def shard(text: str) -> tuple[int, int]:
    """`1/8` as (1, 8)."""
    number, _, shards = text.partition("/")
    found = int(number), int(shards)
    if not 1 <= found[0] <= found[1]:
        raise ValueError
    return found


def main() -> int:
    """Checks the worlds of a shard, prints failures and a summary."""
    parser = argparse.ArgumentParser("python -m tests.properties", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="of all shards together")
    parser.add_argument("--draws", type=int, default=20, help="cases of one compiled world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", type=shard, default=(1, 1), help="for example 1/8")
    parser.add_argument("--game", choices=runner.GAMES, action="append", help="default: all")
    parser.add_argument("--only", type=int, help="one world by its index, for each game")
    options = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", COMPILER_FLAGS)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    tally = runner.Tally()
    for index in runner.indices(options.cases, options.draws, *options.shard):
        for game in options.game or runner.GAMES:
            index = index if options.only is None else options.only
            for line in runner.play(game, options.seed, [index], options.draws, tally):
                print(line, flush=True)
        if options.only is not None:
            break
        if tally.worlds % 20 < len(runner.GAMES):
            jax.clear_caches()  # compiled worlds are not used again
    print(tally)
    for failure in tally.failures:
        print(failure, file=sys.stderr)
    return bool(tally.failures)


if __name__ == "__main__":
    sys.exit(main())
