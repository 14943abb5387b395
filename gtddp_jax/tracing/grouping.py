"""From parameters to players.

The parameters of one module form a player. Parameters that meet data in the same operation (the
layers inside a scan, the gates of a recurrent cell) cannot act separately and form one player.
"""

import dataclasses
from collections.abc import Sequence

from gtddp_jax.network.errors import NetworkError
from gtddp_jax.tracing.parameter_uses import BatchedProgram, ParameterUse
from gtddp_jax.tracing.player_dependencies import assign_stages
from gtddp_jax.tracing.pure_model import ParamPath

UNSUPPORTED_MODES = ("generic", "error")
UNUSED_PLAYER = "unused"
"""Name of the player that owns all modules without influence on the outputs."""


@dataclasses.dataclass(frozen=True)
class PlayerGroup:
    """A player and its parameters.

    Attributes:
        name: the path of its module, "/" between names.
        leaves: its parameters, as positions in the model's list of leaves.
        keys: their names within the player.
        uses: where they meet data, as positions in the list of uses.
        stage_index: the stage in which it acts.
        note: why it is not simply one module, or "".
    """

    name: str
    leaves: tuple[int, ...]
    keys: tuple[str, ...]
    uses: tuple[int, ...]
    stage_index: int
    note: str


def player_modules(paths: Sequence[ParamPath]) -> list[ParamPath]:
    """For each parameter, the module whose player it joins.

    Parameters beside submodules (a class token, a position table) are players of their own, so
    their own path stands for the module.
    """
    # A prefix that is followed by more than one name contains a submodule.
    with_submodules = {path[:depth] for path in paths for depth in range(len(path) - 1)}
    return [path if path[:-1] in with_submodules else path[:-1] for path in paths]


class _UnionFind:
    """Disjoint sets of the numbers below `count`; the least member represents a set."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def find_root(self, member: int) -> int:
        # Sets are as small as modules: shortening the paths would not pay.
        while self._parents[member] != member:
            member = self._parents[member]
        return member

    def merge_sets(self, first: int, second: int) -> None:
        # The least member becomes the root, so roots do not depend on the order of merges.
        smaller, larger = sorted((self.find_root(first), self.find_root(second)))
        self._parents[larger] = smaller


def _group_leaves(modules: Sequence[ParamPath], uses: Sequence[ParameterUse]) -> list[int]:
    """For each parameter the least parameter of its player."""
    groups = _UnionFind(len(modules))
    first_of_module: dict[ParamPath, int] = {}
    for leaf, module in enumerate(modules):
        # The first parameter of a module represents it until uses merge modules.
        groups.merge_sets(leaf, first_of_module.setdefault(module, leaf))
    for use in uses:
        for leaf in use.leaves:
            groups.merge_sets(min(use.leaves), leaf)
    return [groups.find_root(leaf) for leaf in range(len(modules))]


def _common_prefix(paths: Sequence[ParamPath]) -> ParamPath:
    shortest = min(paths, key=len)
    for length in range(len(shortest), -1, -1):
        if all(path[:length] == shortest[:length] for path in paths):
            return shortest[:length]
    return ()


def _unique_name(name: str, taken: set[str]) -> str:
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name} ({number})"
    taken.add(unique)
    return unique


def group_players(
    batched: BatchedProgram,
    uses: Sequence[ParameterUse],
    paths: Sequence[ParamPath],
    unsupported: str,
) -> tuple[PlayerGroup, ...]:
    """The players in the order in which they act; each parameter belongs to exactly one.

    Args:
        batched: the model.
        uses: its uses of parameters.
        paths: paths of the parameters.
        unsupported: "generic" or "error", as in `from_flax`.

    Raises:
        NetworkError: `unsupported="error"`, and parameters of several modules form one player or
            parameters have no influence on the outputs.
    """
    modules = player_modules(paths)
    roots = _group_leaves(modules, uses)
    used_leaves = {leaf for use in uses for leaf in use.leaves}
    # Players are numbered by their first use.
    player_roots = list(dict.fromkeys(roots[min(use.leaves)] for use in uses))
    player_of_use = [player_roots.index(roots[min(use.leaves)]) for use in uses]
    stages = assign_stages(batched, uses, player_of_use, len(player_roots))
    players: list[PlayerGroup] = []
    taken: set[str] = set()
    for player, root in enumerate(player_roots):
        leaves = tuple(leaf for leaf in range(len(paths)) if roots[leaf] == root)
        group_modules = sorted({modules[leaf] for leaf in leaves})
        base = group_modules[0] if len(group_modules) == 1 else _common_prefix(group_modules)
        use_indices = tuple(i for i, owner in enumerate(player_of_use) if owner == player)
        note = _shared_operation_note(batched, [uses[i] for i in use_indices], group_modules)
        # A player of one module may still hold parameters that nothing depends on.
        note = note or _no_influence_note([paths[i] for i in leaves if i not in used_leaves])
        name = _unique_name(_player_name(base, group_modules), taken)
        # A parameter that is itself the base (a class token) keeps its own name.
        keys = tuple("/".join(paths[leaf][len(base) :]) or paths[leaf][-1] for leaf in leaves)
        players.append(PlayerGroup(name, leaves, keys, use_indices, stages[player], note))
    # Parameters without any use belong to one more player, so that each has an owner.
    unused = tuple(leaf for leaf in range(len(paths)) if roots[leaf] not in player_roots)
    if unused:
        keys = tuple("/".join(paths[leaf]) for leaf in unused)
        note = _no_influence_note([paths[leaf] for leaf in unused])
        players.append(PlayerGroup(_unique_name(UNUSED_PLAYER, taken), unused, keys, (), 0, note))
    if unsupported == "error":
        _refuse_noted(players)
    # Stable: players of one stage stay in the order of their first uses.
    return tuple(sorted(players, key=lambda player: player.stage_index))


def _player_name(base: ParamPath, modules: Sequence[ParamPath]) -> str:
    """The common path of the modules, else their first names, else "params"."""
    first_names = dict.fromkeys(module[0] for module in modules if module)
    return "/".join(base) or "+".join(first_names) or "params"


def _refuse_noted(players: Sequence[PlayerGroup]) -> None:
    refused = [f"{player.name}: {player.note}" for player in players if player.note]
    if refused:
        raise NetworkError(
            f"from_flax(unsupported='error'): {'; '.join(refused)}. With unsupported='generic', "
            "each of these becomes one player."
        )


def _shared_operation_note(
    batched: BatchedProgram, uses: Sequence[ParameterUse], modules: Sequence[ParamPath]
) -> str:
    """Which operations force several modules into one player; "" for a single module."""
    if len(modules) == 1:
        return ""
    # Only uses of several parameters can merge modules.
    shared = [use for use in uses if len(use.leaves) > 1]
    names = sorted({batched.program.equations[use.equation_index].name for use in shared})
    return f"{len(modules)} modules act as one, in {', '.join(names)}"


def _no_influence_note(paths: Sequence[ParamPath]) -> str:
    if not paths:
        return ""
    return "no influence on the outputs: " + ", ".join("/".join(path) for path in paths[:5])
