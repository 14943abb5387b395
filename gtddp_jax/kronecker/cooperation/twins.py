"""Twins: two players with one input whose outputs are added (paper Fig. 7a, Cor. 7).

Their factors are equal, so every matrix of the stage has the same eigenbasis, and damping can join
it exactly: with curvature lambda and damping gamma, along one coordinate,

| mode       | on the players' mean            | on their difference            | Q_uv     |
|------------|---------------------------------|--------------------------------|----------|
| `joint`    | `1 / (gamma + n lambda)`        | `1 / gamma`                    | + lambda |
| `theorem3` | `1 / gamma`                     | `1 / (gamma + 2 lambda)`       | - lambda |

and under `rescale` each player alone has `1 / (gamma + gamma lambda / (gamma + lambda))` (Eq. 58).

Twins have the same gradient as long as they have the same statistics, so what counts is the mean:
under `theorem3` all curvature cancels and the step is gradient descent with rate eta / gamma. That
is a property of the paper's formula, which is built here as it stands.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Number
from gtddp_jax.kronecker.bases import Table, rescaled
from gtddp_jax.kronecker.cooperation.base import Cooperation, Own, State
from gtddp_jax.kronecker.operators import Alone, Matrices, Operator, Together


@dataclasses.dataclass(frozen=True)
class MeanAndRest(Operator):
    """One table for the mean over the players and one for what differs from it.

    Attributes:
        own: the shared eigenbases.
        mean: the table for the mean.
        rest: the table for the differences from it.
    """

    own: Own
    mean: Table
    rest: Table

    def __call__(self, m: Matrices) -> dict[str, jax.Array]:
        """See `Operator`."""
        left, right = self.own.left, self.own.right
        mean = jnp.stack(list(m.values())).mean(0)
        shared = rescaled(mean, left, right, self.mean)
        return {name: shared + rescaled(x - mean, left, right, self.rest) for name, x in m.items()}


@dataclasses.dataclass(frozen=True)
class Twins(Cooperation):
    """Players with equal factors; `mode` is a cooperative mode other than "none"."""

    mode: str

    def operator(self, state: State, own: Mapping[str, Own], gamma: Number) -> Operator:
        """See `Cooperation`."""
        del state
        first = next(iter(own.values()))
        tables = [player.curvature for player in own.values()]
        value: Table = jax.tree.map(lambda *xs: jnp.stack(xs).mean(0), *tables)
        if self.mode == "rescale":
            scale = jax.tree.map(lambda v: 1 / (gamma + gamma * v / (gamma + v)), value)
            parts = tuple(Alone(name, first.left, first.right, scale) for name in self.layouts)
            return Together(parts, tuple((name,) for name in self.layouts))
        together: Table = jax.tree.map(lambda v: 1 / (gamma + len(own) * v), value)
        free: Table = jax.tree.map(lambda v: jnp.ones_like(v) / gamma, value)
        if self.mode == "joint":
            return MeanAndRest(first, together, free)
        return MeanAndRest(first, free, together)
