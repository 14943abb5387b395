"""From parameters to players (DESIGN §1): who they are, and when they act.

The parameters of one module are a player. Parameters that meet data in one and the same operation
(the layers inside a scan, the gates of a recurrent cell) cannot act apart and become one player.
A player acts as early as its inputs allow: players without a path between them act at once.
"""

import dataclasses
from collections.abc import Sequence

from gtddp_jax.flax_models.models import Path
from gtddp_jax.flax_models.uses import Traced, Use
from gtddp_jax.network.errors import NetworkError

UNSUPPORTED = ("generic", "error")


@dataclasses.dataclass(frozen=True)
class Member:
    """A player.

    Attributes:
        name: its path, "/" between modules.
        leaves: its parameters, as positions in the model's list.
        keys: their names within the player.
        uses: where they meet data, as positions in the list of uses.
        level: when it acts, from 0.
        note: why it is not simply one module, or "".
    """

    name: str
    leaves: tuple[int, ...]
    keys: tuple[str, ...]
    uses: tuple[int, ...]
    level: int
    note: str


def homes(paths: Sequence[Path]) -> list[Path]:
    """For each parameter the module whose player it joins.

    Parameters beside submodules (a class token, a position table) are players of their own.
    """
    inner = {path[:n] for path in paths for n in range(len(path) - 1)}
    return [path if path[:-1] in inner else path[:-1] for path in paths]


class _Union:
    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, i: int) -> int:
        while self._parent[i] != i:
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        a, b = sorted((self.find(i), self.find(j)))
        self._parent[b] = a


def _prefix(paths: Sequence[Path]) -> Path:
    shortest = min(paths, key=len)
    for n in range(len(shortest), -1, -1):
        if all(path[:n] == shortest[:n] for path in paths):
            return shortest[:n]
    return ()


def _unique(name: str, taken: set[str]) -> str:
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    taken.add(found)
    return found


def _meeting(traced: Traced, index: int, reads_data: list[bool], uses: set[int]) -> int:
    """The first equation from `index` on in which what it makes meets data or other parameters."""
    equations = traced.program.equations
    front = set(equations[index].outputs)
    if any(reads_data[v] for v in equations[index].read):
        return index
    for later in range(index + 1, len(equations)):
        equation = equations[later]
        if front.intersection(equation.read):
            if later in uses or any(reads_data[v] for v in equation.read):
                return later
            front.update(equation.outputs)
    return index


def _data(traced: Traced) -> list[bool]:
    """For each value whether it depends on the inputs of the model."""
    found = [False] * len(traced.program.shapes)
    for value in traced.program.groups["inputs"]:
        found[value] = True
    for equation in traced.program.equations:
        if any(found[v] for v in equation.read):
            for value in equation.outputs:
                found[value] = True
    return found


def dependencies(traced: Traced, uses: Sequence[Use], owner: Sequence[int]) -> list[int]:
    """For each value, as a bit set, the players whose moves it depends on."""
    program = traced.program
    acts = {use.index: owner[i] for i, use in enumerate(uses)}
    found = [0] * len(program.shapes)
    for index, equation in enumerate(program.equations):
        bits = 0
        for value in equation.read:
            bits |= found[value]
        if index in acts:
            bits |= 1 << acts[index]
        for value in equation.outputs:
            found[value] = bits
    return found


def _levels(
    traced: Traced, uses: Sequence[Use], owner: Sequence[int], players: int
) -> tuple[int, ...]:
    """When each player acts: one after the last of those on whom its first use depends."""
    depends, reads_data = dependencies(traced, uses, owner), _data(traced)
    before: list[int] = [0] * players
    seen: set[int] = set()
    places = {use.index for use in uses}
    for use, player in zip(uses, owner, strict=True):
        if player in seen:
            continue
        seen.add(player)
        meeting = traced.program.equations[_meeting(traced, use.index, reads_data, places)]
        for value in (*traced.program.equations[use.index].read, *meeting.read):
            before[player] |= depends[value]
        before[player] &= ~(1 << player)
    levels: dict[int, int] = {}

    def level(player: int, above: int) -> int:
        if player not in levels:
            rest = [q for q in range(players) if before[player] >> q & 1 and not above >> q & 1]
            levels[player] = 1 + max((level(q, above | 1 << player) for q in rest), default=-1)
        return levels[player]

    return tuple(level(player, 0) for player in range(players))


def group(
    traced: Traced, uses: Sequence[Use], paths: Sequence[Path], unsupported: str
) -> tuple[Member, ...]:
    """The players, in the order in which they act; each parameter is in exactly one.

    Raises:
        NetworkError: `unsupported="error"` and parameters of several modules act as one, or
            parameters have no influence on the outputs.
    """
    homes_ = homes(paths)
    places = {home: i for i, home in reversed(list(enumerate(homes_)))}
    union = _Union(len(paths))
    for leaf, home in enumerate(homes_):
        union.join(leaf, places[home])
    for use in uses:
        first = min(use.leaves)
        for leaf in use.leaves:
            union.join(first, leaf)
    used = {leaf for use in uses for leaf in use.leaves}
    roots = list(dict.fromkeys(union.find(min(use.leaves)) for use in uses))
    idle = [i for i in range(len(paths)) if union.find(i) not in roots]
    owner = [roots.index(union.find(min(use.leaves))) for use in uses]
    levels = _levels(traced, uses, owner, len(roots))
    members, taken = [], set()
    for player, root in enumerate(roots):
        leaves = tuple(i for i in range(len(paths)) if union.find(i) == root)
        modules = sorted({homes_[i] for i in leaves})
        base = modules[0] if len(modules) == 1 else _prefix(modules)
        together = "+".join(dict.fromkeys(m[0] for m in modules if m))
        name = "/".join(base) or together or "params"
        mine = tuple(i for i, who in enumerate(owner) if who == player)
        note = "" if len(modules) == 1 else _together(traced, [uses[i] for i in mine], modules)
        note = note or _idle([paths[i] for i in leaves if i not in used])
        keys = tuple("/".join(paths[i][len(base) :]) or paths[i][-1] for i in leaves)
        members.append(Member(_unique(name, taken), leaves, keys, mine, levels[player], note))
    if idle:
        keys = tuple("/".join(paths[i]) for i in idle)
        note = _idle([paths[i] for i in idle])
        members.append(Member(_unique("unused", taken), tuple(idle), keys, (), 0, note))
    if unsupported == "error":
        refused = [member for member in members if member.note]
        if refused:
            listed = "; ".join(f"{member.name}: {member.note}" for member in refused)
            raise NetworkError(
                f"from_flax(unsupported='error'): {listed}. With unsupported='generic' they "
                "become one player each."
            )
    order = sorted(range(len(members)), key=lambda i: (members[i].level, i))
    return tuple(members[i] for i in order)


def _together(traced: Traced, uses: Sequence[Use], modules: Sequence[Path]) -> str:
    shared = [u for u in uses if len(u.leaves) > 1]
    names = sorted({traced.program.equations[u.index].name for u in shared})
    return f"{len(modules)} modules act as one, in {', '.join(names)}"


def _idle(paths: Sequence[Path]) -> str:
    if not paths:
        return ""
    return "no influence on the outputs: " + ", ".join("/".join(path) for path in paths[:5])
