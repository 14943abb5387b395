"""Where exactness is shown: float64, no rank promoted unasked, programs that compile quickly."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

FEW_PASSES = "jax_disable_most_optimizations"


@contextmanager
def exact() -> Iterator[None]:
    """Programs run a few times only: optimising them would cost more than it saves."""
    before = jax.config.read(FEW_PASSES)
    jax.config.update(FEW_PASSES, True)
    try:
        with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
            yield
    finally:
        jax.config.update(FEW_PASSES, before)
