"""The error type of network descriptions."""

from typing import Any

import jax.numpy as jnp


class NetworkError(ValueError):
    """A network description that cannot be built; the message names the block and what to do."""


def refuse_complex_numbers(player: str, *arrays: Any) -> None:
    """Raises if what parameters read or write is complex.

    Per-sample gradients are sums of products, which for real parameters would need real parts.

    Args:
        player: the layer or the operation, for the message.
        *arrays: its inputs, outputs or parameters, or their shapes.
    """
    if any(jnp.issubdtype(array.dtype, jnp.complexfloating) for array in arrays):
        raise NetworkError(
            f"{player} reads or writes complex numbers. In a gt.Network, and in the sequential "
            "game, parameters act on real numbers only: join the parts, "
            "jnp.concatenate([x.real, x.imag], axis=-1), or use gt.implicit with a function, "
            "such as net.apply, which supports complex numbers. After the last layer with "
            "parameters they are supported everywhere."
        )
