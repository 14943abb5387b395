"""The stages of a Flax model under the dense definition of DESIGN §2, both rollouts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.game.rollout import ROLLOUTS
from tests.core.oracle import FAST, relative_error
from tests.flax_models import zoo

RATES = {"perceptron": 0.1, "unet": 0.005, "lstm": 0.1, "einsum": 0.05}
"""Of gradient descent, for weights that differ while rho stays below 1."""
MODELS = [
    name if name == "perceptron" else pytest.param(name, marks=pytest.mark.slow) for name in RATES
]


@pytest.mark.parametrize("name", MODELS)
def test_the_dense_definition(name: str) -> None:
    rate = RATES[name]
    p = zoo.problem(name, batch=2)
    outputs = p.net.apply(p.params, p.inputs)
    y = jnp.asarray(np.random.default_rng(1).normal(size=outputs.shape))

    def loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return 0.5 * jnp.square(outputs - y).reshape(len(y), -1).sum(1)

    own = p.net.split(p.params)
    gains = gt.reference.preconditioned(lambda t, q: rate * jnp.eye(q.size))

    @functools.partial(jax.jit, compiler_options=FAST)
    def both(own: Any) -> dict[str, Any]:
        found = {}
        for rollout in ROLLOUTS:
            want = gt.reference.ddp_step(
                p.net.stages,  # type: ignore[arg-type]
                own,
                p.inputs,
                lambda outputs: loss(outputs, y),
                gt.reference.HESSIANS["projected"],
                gains,
                rollout=rollout,
            ).steps
            terminal = gt.terminal.projected()
            curvature = gt.curvature.identity(rate)
            tx: Any = gt.gtddp(p.net, loss, curvature, terminal=terminal, rollout=rollout)
            step, state = tx.update(None, tx.init(p.params), p.params, batch=(p.inputs, y))
            report = state.report
            found[rollout] = p.net.split(step), want, report.weight_max - report.weight_min
        return found

    steps = both(own)
    for rollout, (got, want, spread) in steps.items():
        assert relative_error(got, want) < 1e-9, rollout
        assert spread > 0.01, rollout
    assert relative_error(steps["linear"][0], steps["nonlinear"][0]) > 1e-9


def test_a_masked_sequence_loss() -> None:
    """Positions that do not count have no say."""
    p = zoo.problem("gpt", batch=2)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 7, size=(2, 5)))
    mask = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], jnp.float64)

    def loss(outputs: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, targets[0])
        return (targets[1] * each).sum(-1) / targets[1].sum(-1)

    tx: Any = gt.sgd(p.net, loss, 0.1)

    @jax.jit
    def step(labels: jax.Array) -> Any:
        batch = (p.inputs, (labels, mask))
        return tx.update(None, tx.init(p.params), p.params, batch=batch)[0]

    first, second = step(labels), step(labels.at[:, 3:].set(0))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert optax.tree.norm(first) > 0


@pytest.mark.slow
def test_a_masked_sequence_loss_is_verified() -> None:
    p = zoo.problem("nnx_transformer", batch=2)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 7, size=(2, 3)))
    mask = jnp.asarray([[1, 1, 0], [1, 0, 0]], jnp.float64)

    def loss(outputs: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, targets[0])
        return (targets[1] * each).sum(-1)

    batch = (p.inputs, (labels, mask))
    found = gt.verify(p.net, p.params, batch, loss=loss, batch_stats=p.batch_stats)
    assert found.ok, str(found)


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` can fail: with one use's sums off by a tenth, its checks say so."""
    from gtddp_jax.flax_models.kinds.product import Product

    p = zoo.problem("perceptron")
    right = Product.weighted
    monkeypatch.setattr(Product, "weighted", lambda self, w: (1.1 * right(self, w)[0],))
    found = gt.verify(p.net, p.params, (p.inputs, None))
    assert not found.ok
    wrong = {check.name for check in found.checks if not check.ok}
    assert "gradients of single samples" in wrong
    assert "step, against the dense definition" in wrong
    assert "FAIL" in str(found)
