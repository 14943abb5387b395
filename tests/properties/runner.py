"""Checks worlds and counts the checks."""

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.properties import implicit, joint, sequential

GAMES: dict[str, Callable[[int, int], Any]] = {
    "sequential": sequential.World,
    "implicit": implicit.World,
    "joint": joint.World,
}
"""The class of worlds of each game, called with a seed and an index."""


@dataclasses.dataclass
class Tally:
    """Counts of what was checked.

    Attributes:
        worlds: compiled networks with their options.
        cases: worlds times parameters and batches.
        moved: cases in which the game differs from its base by more than 0.001: some sample weight
            from 1, a joint step from that of the gradient.
        checks: how often each property was checked.
        worst: the largest error of each property and dtype.
        failures: descriptions of the properties that failed.
        seconds: processor time.
    """

    worlds: int = 0
    cases: int = 0
    moved: int = 0
    checks: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    worst: dict[str, float] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [
            f"{self.worlds} worlds, {self.cases} cases ({self.moved} in which the game counts), "
            f"{sum(self.checks.values())} checks, {self.seconds:.0f} s of processor "
            f"time, {len(self.failures)} failures"
        ]
        lines += [
            f"  {name}: {self.checks[name.split(', in ')[0]]} checks, worst {error:.1e}"
            for name, error in sorted(self.worst.items())
        ]
        return "\n".join(lines)


def indices(cases: int, draws: int, shard: int = 1, shards: int = 1) -> Iterator[int]:
    """The worlds of one shard; all shards and games together have at least `cases` cases."""
    worlds = math.ceil(cases / draws / len(GAMES))
    return iter(range(shard - 1, worlds, shards))


def play(game: str, seed: int, worlds: Iterable[int], draws: int, tally: Tally) -> Iterator[str]:
    """Checks worlds one after the other, yields a line about each and adds to the tally."""
    for index in worlds:
        began = time.process_time()
        label = f"{game} {index}"
        world: Any = None
        failures = []
        try:
            world = GAMES[game](seed, index)
            for number, (findings, spread) in enumerate(world.cases(draws)):
                tally.cases += 1
                tally.moved += spread > 1e-3
                for finding in findings:
                    tally.checks[finding.name] += 1
                    key = f"{finding.name}, in {world.dtype}"
                    tally.worst[key] = max(tally.worst.get(key, 0.0), finding.error)
                    if not finding.holds:
                        failures.append(f"case {number}: {finding.name}: {finding.error:.1e}")
        except Exception as error:  # an error in one world must not stop the others
            failures.append(f"{type(error).__name__}: {error}")
        tally.worlds += 1
        spent = time.process_time() - began
        tally.seconds += spent
        tally.failures += [f"{label}: {failure}\n    {world}" for failure in failures]
        yield f"{label}: {'; '.join(failures) or 'holds'} ({spent:.1f} s)"
