"""Results of property checks, and distances of trees."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any

BOUNDS = {"float64": 1e-9, "float32": 5e-3, "bfloat16": 0.25}
"""Bounds of the relative error by dtype. Exactness is claimed in float64; the other bounds allow
for the rounding of the dtype through up to a dozen layers: the worlds with the largest errors in
float32, 4e-3, are exact to 1e-12 in float64."""


class Finding(NamedTuple):
    """The result of one property for one case.

    Attributes:
        name: the name of the property.
        error: the relative error.
        bound: the largest error that is allowed.
    """

    name: str
    error: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the property holds; an error that is NaN does not."""
        return self.error <= self.bound


def distance(got: Tree, want: Tree) -> float:
    """The largest relative error of any array.

    An array that is small relative to the whole tree is compared with a hundredth of the tree's
    norm: one that is zero except for rounding (a bias before a normalization) has no relative
    error.
    """
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True))
    wide = [tuple(np.asarray(v, np.float64).ravel() for v in pair) for pair in pairs]
    assert all(a.shape == b.shape for a, b in wide)
    whole = np.sqrt(sum(float(b @ b) for _, b in wide))
    if whole == 0:
        return max([float(np.abs(a).max()) for a, _ in wide if a.size], default=0.0)
    errors = [np.linalg.norm(a - b) / max(np.linalg.norm(b), 0.01 * whole) for a, b in wide]
    return float(np.max(errors))


def figures(report: Any) -> dict[str, jax.Array]:
    """The sample-weight fields of a report."""
    names = ("sample_weight_min", "sample_weight_mean", "sample_weight_max", "sample_weight_std")
    return {name: getattr(report, name) for name in names}


def upcast(tree: Tree) -> Tree:
    """Floating-point arrays as float64."""
    return jax.tree.map(
        lambda v: v.astype(jnp.float64) if jnp.issubdtype(v.dtype, jnp.floating) else v, tree
    )
