"""Answers calls of `net.apply` inside a user's function with outputs that are already known.

The sequential game runs the network itself, stage by stage. A function of losses calls `net.apply`;
the game first asks what it is called with, and then answers with the outputs of its own pass.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

from gtddp_jax.core.types import Tree


class NetworkCall(NamedTuple):
    """The arguments of one call of `apply`.

    Attributes:
        params: the parameters.
        inputs: the inputs, [B, ...].
        batch_stats: the state beside the parameters, or None.
        train: whether the network trains; None if the caller did not say.
        rngs: random keys by collection, or None.
    """

    params: Tree
    inputs: Any
    batch_stats: Tree | None
    train: bool | None
    rngs: Mapping[str, Any] | None


class _Interception(NamedTuple):
    """Whose calls are answered, and how."""

    net: object
    answer: Callable[[NetworkCall], Any]


# A context variable, because several threads may trace models at the same time.
_CURRENT: ContextVar[_Interception | None] = ContextVar("interception", default=None)


@contextlib.contextmanager
def intercept_calls(net: object, answer: Callable[[NetworkCall], Any]) -> Iterator[None]:
    """While it is open, `net.apply` returns what `answer` returns for the call."""
    token = _CURRENT.set(_Interception(net, answer))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def intercepted(net: object) -> Callable[[NetworkCall], Any] | None:
    """What answers the calls of a network at present, or None."""
    current = _CURRENT.get()
    return current.answer if current is not None and current.net is net else None
