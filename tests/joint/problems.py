"""Tiny problems for the joint game: squared and other convex losses, one and several outputs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt

# NumPy keeps float64 where JAX has not enabled it yet.
RANDOM = np.random.default_rng(0)
PARAMS = {
    "hidden": RANDOM.normal(size=(2, 4)),
    "bias": np.array([0.1, -0.2, 0.3, 0.0]),
    "readout": RANDOM.normal(size=(4, 3)),
}


def network(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["hidden"] + params["bias"]) @ params["readout"]


def interior(params: Any, x: jax.Array) -> jax.Array:
    """Two outputs."""
    return network(params, x)[:2] - jnp.sin(x.sum())


def boundary(params: Any, sample: Any) -> jax.Array:
    """One output, a number."""
    x, y = sample
    return network(params, x)[2] - y


def logits(params: Any, sample: Any) -> jax.Array:
    return network(params, sample["x"])


def cross_entropy(outputs: jax.Array, sample: Any) -> jax.Array:
    return jax.nn.logsumexp(outputs) - outputs[sample["label"]]


def huber(outputs: jax.Array, sample: Any) -> jax.Array:
    """A smooth convex loss of one output: log cosh."""
    del sample
    return jnp.log(jnp.cosh(outputs)).sum()


def squared(outputs: jax.Array, sample: Any) -> jax.Array:
    del sample
    return 0.5 * outputs @ outputs


class Problem(NamedTuple):
    terms: dict[str, gt.Term]
    batch: dict[str, Any]

    def definitions(self) -> dict[str, Any]:
        """The terms as the dense definition takes them."""
        return {
            name: (term.residual, term.loss or squared, term.weight)
            for name, term in self.terms.items()
        }

    def objective(self, params: Any) -> jax.Array:
        """The sum of the mean losses of the terms, with their weights."""
        losses = []
        for key, (residual, loss, weight) in self.definitions().items():
            one = jax.vmap(lambda s, r=residual, f=loss: f(jnp.ravel(r(params, s)), s))
            losses.append(weight * one(self.batch[key]).mean())
        return jnp.stack(losses).sum()


def points(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2))


def problems() -> dict[str, Problem]:
    inside = points(5, 3)
    edge = (points(3, 4), np.array([0.3, -0.1, 0.5]))
    labelled = {"x": points(4, 5), "label": np.arange(4) % 3}
    return {
        "squared": Problem(
            {"pde": gt.Term(interior), "boundary": gt.Term(boundary, weight=3.0)},
            {"pde": inside, "boundary": edge},
        ),
        "cross entropy": Problem(
            {"labels": gt.Term(logits, cross_entropy, 2.0), "pde": gt.Term(interior)},
            {"labels": labelled, "pde": inside},
        ),
        "log cosh": Problem({"fit": gt.Term(boundary, huber)}, {"fit": edge}),
    }
