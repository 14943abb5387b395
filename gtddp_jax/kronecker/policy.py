"""The policy of a stage with Kronecker curvature."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.curvature.base import Move, Policy, Tree
from gtddp_jax.kronecker.layouts import Layout
from gtddp_jax.kronecker.operators import Operator
from gtddp_jax.players import SampleGradients


@dataclasses.dataclass(frozen=True)
class KroneckerPolicy(Policy):
    """`k - rate operator(q_closed - q_open)`: momentum is in k, feedback uses P alone."""

    open_gain: Tree
    state: Any
    operator: Operator
    rate: Any
    layouts: Mapping[str, Layout]
    moves: Mapping[str, Move]
    other: Policy | None

    def quadratic(self, samples: Mapping[str, SampleGradients]) -> jax.Array:
        """See `Policy`."""
        form = self.rate * self.operator.forms(self.layouts, self.moves)
        if self.other is None:
            return form
        rest = {name: samples[name] for name in samples if name not in self.layouts}
        return form + self.other.quadratic(rest)

    def respond(self, q_open: Tree, q_closed: Tree) -> tuple[Tree, Any]:
        """See `Policy`."""
        difference = {
            name: layout.matrix(jax.tree.map(jnp.subtract, q_closed[name], q_open[name]))
            for name, layout in self.layouts.items()
        }
        image = self.operator(difference)
        step: dict[str, Any] = {}
        for name, layout_ in self.layouts.items():
            k = self.open_gain[name]
            back = layout_.tree(self.rate * image[name], k)
            step[name] = jax.tree.map(jnp.subtract, k, back)
        if self.other is None:
            return step, self.state
        rest = [{n: q[n] for n in q if n not in self.layouts} for q in (q_open, q_closed)]
        theirs, after = self.other.respond(*rest)
        return step | theirs, self.state._replace(other=after)
