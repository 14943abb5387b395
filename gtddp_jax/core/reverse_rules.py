"""Functions with a reverse rule only: `jax.custom_vjp` has no forward mode.

Fused losses, attention kernels and straight-through estimators are written so. A directional
derivative of such a function is the transpose of its pullback, which reverse mode gives.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.jaxprs import all_equations
from gtddp_jax.core.types import Tree

CUSTOM_VJP_PRIMITIVE = "custom_vjp_call"


def custom_vjp_names(function: Callable[..., Any], *args: Any) -> list[str]:
    """Names of the `jax.custom_vjp` functions that a function calls, each once, in order.

    Args:
        function: traced, never run.
        *args: its arguments, or their shapes.
    """
    names = []
    for equation in all_equations(jax.make_jaxpr(function)(*args).jaxpr):
        if equation.primitive.name.startswith(CUSTOM_VJP_PRIMITIVE):
            program: Any = equation.params.get("call_jaxpr") or equation.params.get("fun_jaxpr")
            # "name at file:line"
            source = program.jaxpr.debug_info.func_src_info or "a function"
            names.append(source.split(" at ")[0])
    return list(dict.fromkeys(names))


def directional_derivative(function: Callable[..., Tree], primals: Any, tangents: Any) -> Tree:
    """The derivative of `function(*primals)` along `tangents`, as `jax.jvp` has it.

    Forward mode, or the transposed pullback where the function has a reverse rule only.
    """
    # Asked beforehand: while a step is traced, forward mode fails only when it is lowered.
    if not custom_vjp_names(function, *primals):
        return jax.jvp(function, primals, tangents)[1]
    outputs, pullback = jax.vjp(function, *primals)
    # A pullback is linear, so it may be differentiated anywhere.
    _, transpose = jax.vjp(pullback, jax.tree.map(jnp.zeros_like, outputs))
    return transpose(tangents)[0]
