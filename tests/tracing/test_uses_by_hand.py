"""Parameters that meet data in arithmetic or as a table: gradients of single samples by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.tracing import player_gradients

X = np.array([[0.5, -1.0, 2.0], [1.5, 3.0, -0.5]])
PARAM = np.array([2.0, -4.0, 0.8])
ADJOINTS = np.array([[1.0, 0.0, -1.0], [0.5, -2.0, 1.0]])

DERIVATIVES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "x + p": (lambda x, p: x + p, lambda x, p: np.ones_like(x)),
    "p + x": (lambda x, p: p + x, lambda x, p: np.ones_like(x)),
    "x - p": (lambda x, p: x - p, lambda x, p: -np.ones_like(x)),
    "p - x": (lambda x, p: p - x, lambda x, p: np.ones_like(x)),
    "x * p": (lambda x, p: x * p, lambda x, p: x),
    "p * x": (lambda x, p: p * x, lambda x, p: x),
    "x / p": (lambda x, p: x / p, lambda x, p: -x / p**2),
    "p / x": (lambda x, p: p / x, lambda x, p: 1 / x),
    "repeated p": (lambda x, p: x * jnp.broadcast_to(p[0], x.shape), lambda x, p: x),
    "repeated row": (lambda x, p: x * jnp.broadcast_to(p, x.shape), lambda x, p: x),
    "maximum": (jnp.maximum, lambda x, p: 1.0 * (p > x)),
}
"""A model of data x and a parameter p, and its derivative by p."""


class Sums(NamedTuple):
    """What a game asks of the per-sample gradients of a model's only player."""

    weighted: jax.Array
    along: jax.Array
    squares: jax.Array


def sums(module: nn.Module, param: np.ndarray, inputs: Any, probes: dict[str, Any]) -> Sums:
    net = gt.from_flax(module, inputs)
    params = net.split({"p": jnp.asarray(param)})
    network_pass = net.forward(
        params, inputs, {}, None, SampleReductions(len(inputs)), replayed=False
    )
    (stage,) = network_pass.player_tapes(jnp.asarray(probes["adjoints"]), feedback=True)
    ((player, tape),) = stage.items()
    like = jax.tree.structure(params[player]).unflatten
    found, change = tape.sample_gradients, jnp.asarray(probes["change"])
    (weighted,) = jax.tree.leaves(found.weighted_sum(jnp.asarray(probes["weights"])))
    along = found.directional_derivative(like([change]))
    return Sums(weighted, along, found.quadratic_form(like([change**2])))


@pytest.mark.parametrize("rule", ["kept", "recomputed"])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_sample_gradients_equal_the_calculus(
    name: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the gradients are kept or only their sums computed."""
    monkeypatch.setattr(player_gradients, "_kept_or_recomputed", lambda *_, **__: rule)
    apply, derivative = DERIVATIVES[name]

    class Arithmetic(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return apply(x, self.param("p", nn.initializers.ones, (3,))[None])

    weights, change = np.array([0.5, 2.0]), np.array([1.0, -0.3, 0.7])
    probes = {"adjoints": ADJOINTS, "weights": weights, "change": change}
    got = sums(Arithmetic(), PARAM, jnp.asarray(X), probes)
    gradients = ADJOINTS * derivative(X, PARAM[None])
    np.testing.assert_allclose(got.weighted, weights @ gradients, rtol=1e-14)
    np.testing.assert_allclose(got.along, gradients @ change, rtol=1e-14)
    np.testing.assert_allclose(got.squares, gradients**2 @ change**2, rtol=1e-14)


@pytest.mark.parametrize("first", ["rows", "features"])
@pytest.mark.parametrize("name", ["x + p", "x * p"])
def test_rows_of_a_sample_are_summed(name: str, first: str) -> None:
    """Data [B T, 3] or [3, B T], of which T = 2 rows or columns belong to one sample."""
    apply, derivative = DERIVATIVES[name]

    class Merged(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            rows, p = x.reshape(-1, 3), self.param("p", nn.initializers.ones, (3,))[None]
            found = apply(rows, p) if first == "rows" else apply(rows.T, p.T).T
            return found.reshape(x.shape)

    rng = np.random.default_rng(0)
    x, adjoints = rng.normal(size=(2, 2, 2, 3))
    weights, change = np.array([0.5, 2.0]), np.array([1.0, -0.3, 0.7])
    probes = {"adjoints": adjoints, "weights": weights, "change": change}
    got = sums(Merged(), PARAM, jnp.asarray(x), probes)
    gradients = (adjoints * derivative(x, PARAM)).sum(1)
    np.testing.assert_allclose(got.weighted, weights @ gradients, rtol=1e-13)
    np.testing.assert_allclose(got.along, gradients @ change, rtol=1e-13)
    np.testing.assert_allclose(got.squares, gradients**2 @ change**2, rtol=1e-13)


class Table(nn.Module):
    """Rows of a table."""

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        table = self.param("p", nn.initializers.ones, (4, 3))
        return jnp.take(table, ids, axis=0, mode="clip")


def test_a_table_is_recognized() -> None:
    """Gradients of so few parameters would be kept, except for those of a table."""
    assert "recomputed" in gt.explain(gt.from_flax(Table(), jnp.zeros((2, 2), int)))


def test_equal_rows_of_a_table_add_up() -> None:
    """The second sample reads row 2 twice, so the square of its gradient has a mixed term."""
    rng = np.random.default_rng(0)
    ids, adjoints = np.array([[0, 1], [2, 2]]), rng.normal(size=(2, 2, 3))
    weights, change = np.array([0.5, 2.0]), rng.normal(size=(4, 3))
    gradients = np.zeros((2, 4, 3))
    for sample, position in np.ndindex(2, 2):
        gradients[sample, ids[sample, position]] += adjoints[sample, position]
    probes = {"adjoints": adjoints, "weights": weights, "change": change}
    got = sums(Table(), rng.normal(size=(4, 3)), jnp.asarray(ids), probes)
    np.testing.assert_allclose(got.weighted, np.tensordot(weights, gradients, 1), rtol=1e-14)
    np.testing.assert_allclose(got.along, (gradients * change).sum((1, 2)), rtol=1e-13)
    np.testing.assert_allclose(got.squares, (gradients**2 * change**2).sum((1, 2)), rtol=1e-13)
