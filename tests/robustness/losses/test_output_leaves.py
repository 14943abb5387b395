"""Outputs that have no derivative are constants to the loss; what is not per sample is named."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from tests.robustness.losses import problems
from tests.robustness.losses.problems import BASE, CROSS_ENTROPY, gtddp, implicit

X, LABELS = problems.inputs()


def with_constants(logits: jax.Array) -> dict[str, Any]:
    """Logits with leaves of other kinds beside them."""
    return {
        "logits": logits,
        "winner": logits.argmax(-1),
        "is_sure": logits.max(-1) > 0.5,
        "nothing": None,
    }


def loss_with_constants(outputs: dict[str, Any], labels: jax.Array) -> jax.Array:
    """Reads every output; equals `plain_loss`."""
    assert outputs["nothing"] is None
    factor = jnp.where(outputs["is_sure"], 2.0, 1.0) + (outputs["winner"] == labels)
    return factor * CROSS_ENTROPY(outputs["logits"], labels)


def plain_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return loss_with_constants(with_constants(logits), labels)


@pytest.mark.parametrize("weighting", problems.WEIGHTINGS)
def test_the_implicit_game(weighting: str) -> None:
    """Tokens of any shape and random keys are constants, too."""
    start = problems.mlp_params()
    constants = with_constants(problems.mlp(start, X))

    def apply_fn(params: Any, x: jax.Array) -> Any:
        outputs = with_constants(problems.mlp(start, x))
        outputs |= {"count": jnp.int32(7), "key": jax.random.key(0)}
        return outputs | {"logits": problems.mlp(params, x)}

    def plain(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return loss_with_constants(constants | {"logits": logits}, labels)

    games = [
        implicit(BASE, apply_fn, loss_with_constants, weighting=weighting),
        implicit(BASE, problems.mlp, plain, weighting=weighting),
    ]
    problems.assert_same_game(*(problems.run(tx, start, (X, LABELS)) for tx in games))


class WithConstants(nn.Module):
    """A model whose outputs are partly without a derivative."""

    plain: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        logits = nn.Dense(4)(jnp.tanh(nn.Dense(5)(x)))
        return logits if self.plain else with_constants(logits)


@pytest.mark.parametrize("rollout", ["linear", "nonlinear"])
def test_the_sequential_game(rollout: str) -> None:
    params = problems.network_params(gt.from_flax(WithConstants(), X), X)

    def logits_at(params: Any) -> Any:
        return WithConstants(plain=True).apply({"params": params}, X)

    constants = with_constants(logits_at(params))

    def frozen(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return loss_with_constants(constants | {"logits": logits}, labels)

    games = []
    for plain, loss in ((False, loss_with_constants), (True, frozen)):
        net: Any = gt.from_flax(WithConstants(plain), X)
        tx = gtddp(net, loss, gt.curvature.SGD(0.3), rollout=rollout)
        games.append(problems.run(tx, params, (X, LABELS), steps=1))
    problems.assert_same_game(*games)
    # The new loss takes the new constants.
    new, old = (plain_loss(logits_at(at), LABELS).mean() for at in (games[0][0], params))
    report = games[0][1].report
    assert bool(report.actual_change_known) == (rollout == "nonlinear")
    if report.actual_change_known:
        assert report.actual_change == pytest.approx(float(new - old), rel=1e-5)


def test_what_belongs_to_the_whole_batch_is_named() -> None:
    def mixture(params: Any, x: jax.Array) -> Any:
        outputs = problems.mlp(params, x)
        return {"logits": outputs, "balance": jnp.square(outputs).mean()}

    def loss(outputs: Any, labels: jax.Array) -> jax.Array:
        return CROSS_ENTROPY(outputs["logits"], labels) + outputs["balance"]

    message = (
        r"the model returned outputs\['balance'\] of shape \(\), which is not per sample.*"
        r"\[6, \.\.\.\].*has_aux=True.*running cost"
    )
    with pytest.raises(ValueError, match=message):
        problems.trace(implicit(BASE, mixture, loss), problems.mlp_params(), (X, LABELS))

    class Mixture(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> Any:
            outputs = nn.Dense(4)(x)
            return {"logits": outputs, "balance": jnp.square(outputs).mean()}

    with pytest.raises(ValueError, match=r"outputs\['balance'\], an output of shape \(\), .*cost"):
        gt.from_flax(Mixture(), X)


@pytest.mark.slow
def test_the_advice_of_the_message_works() -> None:
    """The balance loss as a running cost: the objective's gradient is that of both together."""

    def balance(params: Any, x: jax.Array) -> jax.Array:
        return jnp.square(problems.mlp(params, x)).mean()

    params = problems.mlp_params()
    tx = implicit(BASE, problems.mlp, CROSS_ENTROPY, strength=0.0)
    updates, _ = tx.update(jax.grad(balance)(params, X), tx.init(params), params, batch=(X, LABELS))

    def objective(params: Any) -> jax.Array:
        return CROSS_ENTROPY(problems.mlp(params, X), LABELS).mean() + balance(params, X)

    want, _ = BASE.update(jax.grad(objective)(params), BASE.init(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), updates, want)


def test_outputs_without_any_derivative_are_named() -> None:
    def winners(params: Any, x: jax.Array) -> jax.Array:
        return problems.mlp(params, x).argmax(-1)

    def loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return (outputs - labels).astype(float)

    with pytest.raises(ValueError, match="returned no floating-point outputs"):
        problems.trace(implicit(BASE, winners, loss), problems.mlp_params(), (X, LABELS))
