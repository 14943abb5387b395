"""What a property found, and how far two trees are apart."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any

BOUNDS = {"float64": 1e-9, "float32": 2e-3, "bfloat16": 0.25}
"""The relative error allowed by dtype. float64 is where exactness is claimed; in the others it is
the dtype's own rounding, carried through up to eight layers, that is allowed for."""


class Finding(NamedTuple):
    """One property on one case.

    Attributes:
        name: of the property.
        error: how far from holding, relative.
        bound: how far is allowed.
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

    Arrays that are small against the whole tree count against a hundredth of it: what is zero
    but for rounding (a bias before a normalisation) has no relative error.
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
    """What a report tells of the weights."""
    names = ("weight_min", "weight_mean", "weight_max", "stage_weight_std")
    return {name: getattr(report, name) for name in names}


def upcast(tree: Tree) -> Tree:
    """Floating-point arrays as float64."""
    return jax.tree.map(
        lambda v: v.astype(jnp.float64) if jnp.issubdtype(v.dtype, jnp.floating) else v, tree
    )
