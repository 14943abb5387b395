"""A loss that is linear in the outputs leaves nothing to a game, and is named."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.robustness.losses import problems
from tests.robustness.losses.problems import BASE, gtddp, implicit

Loss = Callable[[Any, Any], jax.Array]
X, LABELS = problems.inputs()


def likelihood(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(outputs, labels[:, None], axis=1)[:, 0]


LINEAR: dict[str, Loss] = {
    "negative log-likelihood": likelihood,
    "one-hot": lambda outputs, labels: -(outputs * jax.nn.one_hot(labels, 4)).sum(-1),
    "divergence": lambda outputs, labels: optax.kl_divergence(outputs, jax.nn.one_hot(labels, 4)),
    "the output itself": lambda outputs, labels: outputs[:, 0],
    "masked, compiled": jax.jit(
        lambda outputs, labels: jnp.where(labels > 1, 2.0, 0.0) * likelihood(outputs, labels)
    ),
}
NONLINEAR: dict[str, Loss] = {
    "cross entropy": problems.CROSS_ENTROPY,
    "absolute": lambda outputs, labels: jnp.abs(outputs).sum(-1),
    "hinge": lambda outputs, labels: jnp.maximum(0, 1 - outputs).sum(-1),
    "one square": lambda outputs, labels: outputs[:, 0] + jnp.square(outputs[:, 1]),
}


def games(loss: Loss, **options: Any) -> list[tuple[Any, Any]]:
    """A game of each kind, with its parameters; the model ends in log_softmax."""
    net = problems.network(jax.nn.log_softmax)
    params = problems.network_params(net, X)
    return [
        (implicit(BASE, net, loss, **options), params),
        (implicit(BASE, net.apply, loss, weighting="full", **options), params),
        (gtddp(net, loss, gt.curvature.SGD(0.5), **options), params),
    ]


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_loss_is_named_once_for_each_trace(name: str) -> None:
    for tx, params in games(LINEAR[name]):
        with pytest.warns(
            gt.GameWarning, match="is linear in the outputs.*logits from the"
        ) as seen:
            problems.trace(tx, params, (X, LABELS))
        assert len(seen) == 1


@pytest.mark.parametrize("name", NONLINEAR)
def test_other_losses_pass(name: str) -> None:
    for tx, params in games(NONLINEAR[name]):
        problems.trace(tx, params, (X, LABELS))


def test_nothing_is_said_where_no_weights_follow_from_the_loss() -> None:
    """The base alone, and the paper's model, whose curvature is not that of the loss."""
    net = problems.network(jax.nn.log_softmax)
    params = problems.network_params(net, X)
    for tx in (
        implicit(BASE, net, likelihood, strength=0.0),
        gtddp(net, likelihood, gt.curvature.SGD(0.5), equilibrium="open_loop"),
        gtddp(net, likelihood, gt.curvature.SGD(0.5), terminal=gt.terminal.GradientHessian()),
    ):
        problems.trace(tx, params, (X, LABELS))


def test_what_the_warning_says_is_true_and_its_remedy_helps() -> None:
    """All weights are 1; logits and cross entropy are the same problem, with weights."""
    net = problems.network()
    params = problems.network_params(net, X)

    def log_softmax(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(net.apply(params, x))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tx = implicit(BASE, log_softmax, likelihood, weighting="full")
        _, linear = problems.run(tx, params, (X, LABELS), steps=1)
    tx = implicit(BASE, net.apply, problems.CROSS_ENTROPY, weighting="full")
    _, remedied = problems.run(tx, params, (X, LABELS), steps=1)
    assert linear.report.sample_weight_min == linear.report.sample_weight_max == 1
    np.testing.assert_allclose(linear.report.loss, remedied.report.loss, rtol=1e-6)
    assert remedied.report.sample_weight_max - remedied.report.sample_weight_min > 0.05
