"""When each parameter acts and what it costs, read from the traced program.

A parameter acts where it first meets data: values that come from parameters alone (casts,
reshapes, normalised weights) are still parameters. Calls are followed; the body of a scan counts as
often as it runs.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from gtddp_jax.core.types import Tree

Owners = frozenset[int] | None
"""Leaves that a value comes from; None once it has met data."""

CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
PRODUCTS = ("dot_general", "conv_general_dilated")


@dataclasses.dataclass
class Use:
    """How one leaf of the parameters is used.

    Attributes:
        first: when it first meets data, a position in the program; -1 if it never does.
        flops: multiply-adds of the products in which it meets data, twice counted as usual.
    """

    first: int = -1
    flops: float = 0.0


def uses(fn: Callable[[Tree], Any], params: Tree) -> list[Use]:
    """The use of every leaf of `params` in `fn(params)`, in the order of `jax.tree.leaves`."""
    closed = jax.make_jaxpr(fn)(jax.tree.map(_shape, params))
    walk = _Walk(len(jax.tree.leaves(params)))
    owners: list[Owners] = [frozenset([i]) for i in range(len(walk.uses))]
    walk.run(closed.jaxpr, [None] * len(closed.jaxpr.constvars), owners, 1.0)
    return walk.uses


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jax.numpy.shape(x), jax.numpy.result_type(x))


class _Walk:
    def __init__(self, leaves: int) -> None:
        self.uses = [Use() for _ in range(leaves)]
        self._clock = 0

    def run(
        self, jaxpr: Any, consts: list[Owners], args: list[Owners], times: float
    ) -> list[Owners]:
        known = dict(zip(jaxpr.constvars, consts, strict=True))
        known.update(zip(jaxpr.invars, args, strict=True))

        def owners(atom: Any) -> Owners:
            return frozenset() if isinstance(atom, core.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            given = [owners(v) for v in eqn.invars]
            known.update(zip(eqn.outvars, self._equation(eqn, given, times), strict=True))
        return [owners(v) for v in jaxpr.outvars]

    @staticmethod
    def _carried(eqn: Any, given: list[Owners]) -> list[Owners]:
        """A carry that starts from constants is data from its second turn on."""
        first = eqn.params["num_consts"]
        last = first + eqn.params["num_carry"]
        return [
            None if first <= i < last and owner == frozenset() else owner
            for i, owner in enumerate(given)
        ]

    def _equation(self, eqn: Any, given: list[Owners], times: float) -> list[Owners]:
        inner = next((eqn.params[key] for key in CALLS if key in eqn.params), None)
        body = getattr(inner, "jaxpr", inner)
        if body is not None and len(body.invars) == len(given):
            repeats = 1
            if eqn.primitive.name == "scan":
                repeats = eqn.params["length"]
                given = self._carried(eqn, given)
            return self.run(body, [None] * len(body.constvars), given, times * repeats)
        self._clock += 1
        if all(owner is not None for owner in given):
            merged = frozenset().union(*(owner for owner in given if owner is not None))
            return [merged] * len(eqn.outvars)
        for leaf in {leaf for owner in given if owner for leaf in owner}:
            use = self.uses[leaf]
            use.first = self._clock if use.first < 0 else use.first
            use.flops += times * _flops(eqn)
        return [None] * len(eqn.outvars)


def _flops(eqn: Any) -> float:
    if eqn.primitive.name not in PRODUCTS:
        return 0.0
    out, right = eqn.outvars[0].aval, eqn.invars[1].aval
    if eqn.primitive.name == "dot_general":
        (_, contract), _ = eqn.params["dimension_numbers"]
        return 2.0 * math.prod(out.shape) * math.prod(right.shape[i] for i in contract)
    features = right.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(out.shape) * math.prod(right.shape) / features
