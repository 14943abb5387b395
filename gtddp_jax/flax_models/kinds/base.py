"""What a use must provide: its sums over samples, by derivatives of the operation itself."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.core.trees import wide
from gtddp_jax.flax_models.axes import Axis
from gtddp_jax.flax_models.program import Equation

Operands = tuple[jax.Array, ...]
Parts = tuple[Any, Callable[[Any], Operands]]


@dataclasses.dataclass(frozen=True)
class Site:
    """A use with the arrays of one batch.

    Attributes:
        equation: the operation.
        operands: which inputs are values of parameters.
        inputs: all inputs.
        axes: the sample axis of each input, None for parameters and constants of the batch.
        outputs: which outputs are activations.
        adjoints: the gradients of each sample's loss by them.
        out_axes: their sample axes.
        size: B.
        single: the same operation for one sample, or None if it has another form then.
    """

    equation: Equation
    operands: tuple[int, ...]
    inputs: tuple[Any, ...]
    axes: tuple[Axis | None, ...]
    outputs: tuple[int, ...]
    adjoints: tuple[jax.Array, ...]
    out_axes: tuple[Axis, ...]
    size: int
    single: Callable[[], Equation | None]

    @property
    def values(self) -> Operands:
        """The values of parameters."""
        return tuple(self.inputs[i] for i in self.operands)

    @property
    def simple(self) -> bool:
        """Whether there is one value of parameters and one activation."""
        return len(self.operands) == 1 and len(self.outputs) == 1

    def run(self, operands: Operands) -> Operands:
        """The activations for other values of the parameters."""
        inputs = list(self.inputs)
        for i, value in zip(self.operands, operands, strict=True):
            inputs[i] = value
        found = self.equation(*inputs)
        return tuple(found[i] for i in self.outputs)

    @property
    def held(self) -> int:
        """Numbers in the data and the adjoints."""
        data = sum(np.size(x) for x, axis in zip(self.inputs, self.axes, strict=True) if axis)
        return int(data) + sum(g.size for g in self.adjoints)


class UseSums(abc.ABC):
    """The sums over samples of one use; gradients are tuples, one array an operand."""

    kind: str

    def __init__(self, site: Site) -> None:
        self.site = site

    @property
    def positions(self) -> bool:
        """Whether the gradient of one sample is itself a sum over positions."""
        return True

    def weighted(self, w: jax.Array | None) -> Operands:
        """`sum_i w_i G_i`."""
        site = self.site
        scaled = tuple(
            g if w is None else (axis.spread(w, g.ndim) * wide(g)).astype(g.dtype)
            for g, axis in zip(site.adjoints, site.out_axes, strict=True)
        )
        (total,) = jax.vjp(site.run, site.values)[1](scaled)
        return tuple(map(wide, total))

    def dot(self, k: Operands) -> jax.Array:
        """`G_i . k`, [B]."""
        site = self.site
        tangents = tuple(v.astype(p.dtype) for v, p in zip(k, site.values, strict=True))
        _, changes = jax.jvp(site.run, (site.values,), (tangents,))
        parts = [
            (axis.front(wide(g)) * axis.front(wide(c))).sum(range(1, g.ndim + (axis.rows > 1)))
            for g, c, axis in zip(site.adjoints, changes, site.out_axes, strict=True)
        ]
        return jnp.stack(parts).sum(0)

    def square(self, d: jax.Array) -> jax.Array | None:
        """`G_i^T diag(d) G_i` [B] of a use with one operand, if there is a form without G_i."""
        del d
        return None

    @abc.abstractmethod
    def parts(self) -> Parts:
        """Arrays with a leading sample axis; from one sample's part to its gradient."""

    def per_sample(self) -> Operands:
        """The gradients of all samples, [B, ...] each."""
        data, gradient = self.parts()
        return jax.vmap(gradient)(data)
