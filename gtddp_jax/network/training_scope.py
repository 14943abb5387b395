"""Marks calls of a model inside an optimizer, so that `Network.apply` can refuse some of them.

An optimizer that receives `net.apply` as a function does not know the network. Without the mark, a
network with `nn.Dropout` would silently train without dropout.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from gtddp_jax.network.errors import NetworkError

# A context variable, because several threads may trace models at the same time.
_OPTIMIZER: ContextVar[str | None] = ContextVar("optimizer", default=None)


@contextlib.contextmanager
def training_scope(optimizer: str) -> Iterator[None]:
    """While it is open, models run on behalf of the optimizer of this name."""
    token = _OPTIMIZER.set(optimizer)
    try:
        yield
    finally:
        _OPTIMIZER.reset(token)


def refuse_undecided_dropout() -> None:
    """Raises inside a `training_scope`, where dropout must be switched on or off explicitly."""
    optimizer = _OPTIMIZER.get()
    if optimizer is not None:
        raise NetworkError(
            f"{optimizer}: the network has nn.Dropout, and net.apply drops nothing unless `train` "
            "is given. Pass the key with the inputs, batch=((x, key), targets), and as apply_fn a "
            'function that calls net.apply(params, x, train=True, rngs={"dropout": key}); with '
            "train=False it trains without dropout."
        )
