"""The operations in which parameters meet data, and how each computes its sums over samples.

| kind       | operations                                 | gradient of one sample               |
|------------|--------------------------------------------|--------------------------------------|
| `bilinear` | dot_general, mul, add, sub, div, broadcast | one einsum of data and adjoint       |
| `conv`     | conv_general_dilated                       | sums over kernel offsets, in chunks  |
| `lookup`   | rows of a table (embedding)                | scatter; squares by pairs of tokens  |
| `generic`  | everything else: scan, while, cond, ...    | one vjp per sample                   |

A new kind is a class and a function that recognises it, with an entry in `USE_RULES`.
"""

from collections.abc import Callable

from gtddp_jax.network.errors import refuse_complex_numbers
from gtddp_jax.tracing.ops.base import BoundUse, Operands, SplitUse, UseGradients
from gtddp_jax.tracing.ops.bilinear import match_broadcast, match_dot_general, match_elementwise
from gtddp_jax.tracing.ops.convolution import match_convolution
from gtddp_jax.tracing.ops.embedding import match_lookup
from gtddp_jax.tracing.ops.generic import GenericUse

USE_RULES: tuple[Callable[[BoundUse], UseGradients | None], ...] = (
    match_dot_general,
    match_elementwise,
    match_broadcast,
    match_convolution,
    match_lookup,
)
"""Tried in order; `GenericUse` takes the uses that none of them recognises."""


def match_use(use: BoundUse) -> UseGradients:
    """The per-sample gradients of a use, by the first rule that recognises it.

    Raises:
        NetworkError: it reads or writes complex numbers.
    """
    refuse_complex_numbers(f"the operation {use.equation.name}", *use.operands, *use.adjoints)
    for rule in USE_RULES:
        # A rule returns None for a use that it does not cover.
        gradients = rule(use)
        if gradients is not None:
            return gradients
    return GenericUse(use)


__all__ = ["USE_RULES", "BoundUse", "Operands", "SplitUse", "UseGradients", "match_use"]
