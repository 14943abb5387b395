"""Which layers are players, and what the players are called."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from gtddp_jax.network.errors import NetworkError


def layer_label(layer: Any) -> str:
    """A short name for messages and tables."""
    if isinstance(layer, functools.partial):
        return layer_label(layer.func)
    if isinstance(layer, nn.Module):
        return type(layer).__name__
    return getattr(layer, "__name__", type(layer).__name__)


class Namer:
    """Names players in the order of their appearance, `Conv_0`, `Dense_0`, `Conv_1` as Flax does.

    A module's own `name=` is kept. Names are unique; the same module object may stand in one place.
    """

    def __init__(self) -> None:
        self._places: dict[str, str] = {}
        self._modules: dict[int, str] = {}
        self._counts: dict[str, int] = {}

    def is_module(self, layer: Any, place: str) -> bool:
        """Whether a layer is a linen module; raises on a class."""
        if isinstance(layer, type) and issubclass(layer, nn.Module):
            raise NetworkError(
                f"{place}: {layer.__name__} is a class; make an instance, {layer.__name__}(...)."
            )
        return isinstance(layer, nn.Module)

    def function(self, layer: Any, place: str) -> Callable[..., Any]:
        """A parameter-free layer as a callable."""
        if not callable(layer):
            raise NetworkError(
                f"{place}: {layer!r} is neither a flax.linen module, a function, gt.Residual nor "
                "gt.Cooperative."
            )
        return layer

    def name(self, module: nn.Module, place: str) -> str:
        """A unique name for the module at `place`."""
        if id(module) in self._modules:
            raise NetworkError(
                f"{place}: the same {layer_label(module)} object already stands at "
                f"{self._modules[id(module)]}. Make a module for each place; players that share "
                "parameters are not supported in a stage list."
            )
        name = module.name or self._automatic(layer_label(module))
        if name in self._places:
            raise NetworkError(
                f"{place}: the name {name!r} is taken by {self._places[name]}. Names of players "
                "must differ, they are the keys of `params`."
            )
        self._places[name] = place
        self._modules[id(module)] = place
        return name

    def _automatic(self, kind: str) -> str:
        number = self._counts.get(kind, 0)
        self._counts[kind] = number + 1
        return f"{kind}_{number}"
