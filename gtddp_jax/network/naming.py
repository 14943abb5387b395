"""Names of players, and labels of layers for messages and tables."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.pure_players import PurePlayer


def layer_label(layer: object) -> str:
    """A short label of a layer for messages and tables."""
    # A partial has no name of its own.
    if isinstance(layer, functools.partial):
        return layer_label(layer.func)
    if isinstance(layer, PurePlayer):
        return layer.label
    if isinstance(layer, nn.Module):
        return type(layer).__name__
    return getattr(layer, "__name__", type(layer).__name__)


class PlayerNamer:
    """Names players in the order of their appearance, `Conv_0`, `Dense_0`, `Conv_1`, as Flax does.

    A module's own `name=` is kept. Names are unique, and a module object may appear only once.
    """

    def __init__(self) -> None:
        self._place_of_name: dict[str, str] = {}
        self._place_of_module: dict[int, str] = {}
        self._counts: dict[str, int] = {}

    def check_function(self, layer: Any, place: str) -> Callable[..., Any]:
        """A layer that is not a module, as a callable; raises if it is not one."""
        if isinstance(layer, type) and issubclass(layer, nn.Module):
            raise NetworkError(
                f"{place}: {layer.__name__} is a class; make an instance, {layer.__name__}(...)."
            )
        # Whether it keeps samples apart is checked later, when shapes are known (`probe`).
        if not callable(layer):
            raise NetworkError(
                f"{place}: {layer!r} is neither a module (linen, nnx, Equinox or gt.player), a "
                "function, gt.Residual, gt.Cooperative nor gt.Parallel."
            )
        return layer

    def name_player(self, module: nn.Module, place: str) -> str:
        """A unique name for the module at `place`."""
        # By identity: two equal modules (nn.Dense(4) twice) are two players.
        is_made = isinstance(module, PurePlayer) and module.origin is not None
        identity = id(module.origin if is_made else module)
        if identity in self._place_of_module:
            raise NetworkError(
                f"{place}: the same {layer_label(module)} object already stands at "
                f"{self._place_of_module[identity]}. Make a module for each place; players that "
                "share parameters are not supported in a stage list."
            )
        name = module.name or self._next_name(layer_label(module))
        if name in self._place_of_name:
            raise NetworkError(
                f"{place}: the name {name!r} is taken by {self._place_of_name[name]}. Names of "
                "players must differ, they are the keys of `params`."
            )
        self._place_of_name[name] = place
        self._place_of_module[identity] = place
        return name

    def _next_name(self, layer_type: str) -> str:
        # Flax counts instances of each type separately, in the order of their first call.
        number = self._counts.get(layer_type, 0)
        self._counts[layer_type] = number + 1
        return f"{layer_type}_{number}"
