"""Kinds of uses: how the sums over samples are computed where a parameter meets data (DESIGN §6).

| kind       | operations                                 | per-sample gradient                 |
|------------|--------------------------------------------|-------------------------------------|
| `product`  | dot_general, mul, add, sub, div, broadcast | one einsum of data and adjoint      |
| `conv`     | conv_general_dilated                       | sums over kernel offsets, in chunks |
| `lookup`   | rows of a table (embedding)                | scatter; squares by pairs of tokens |
| `generic`  | everything else: scan, while, cond, ...    | one vjp a sample                    |

A kind is one function that recognises it and one class; `KINDS` is asked in order.
"""

from collections.abc import Callable

from gtddp_jax.flax_models.kinds.base import Operands, Parts, Site, UseSums
from gtddp_jax.flax_models.kinds.convolution import convolution
from gtddp_jax.flax_models.kinds.generic import Generic
from gtddp_jax.flax_models.kinds.lookup import lookup
from gtddp_jax.flax_models.kinds.product import broadcast, dot_general, elementwise

KINDS: tuple[Callable[[Site], UseSums | None], ...] = (
    dot_general,
    elementwise,
    broadcast,
    convolution,
    lookup,
)
"""All kinds; what none of them recognises is `Generic`."""


def sums_of(site: Site) -> UseSums:
    """The sums of a use, by the first kind that recognises it."""
    for kind in KINDS:
        found = kind(site)
        if found is not None:
            return found
    return Generic(site)


__all__ = ["KINDS", "Operands", "Parts", "Site", "UseSums", "sums_of"]
