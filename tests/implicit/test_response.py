"""With `response="auto"` a base without momentum keeps weights of 1."""

import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.implicit import dense, models
from tests.implicit.models import implicit, implicit_weights


def trained(base: optax.GradientTransformation, steps: int, **options: object) -> tuple:
    p = models.classification()
    tx = implicit(base, p.apply_fn, p.loss, **options)
    params, state = p.params, tx.init(p.params)
    update = dense.compiled(lambda s, q: tx.update(None, s, q, batch=(p.x, p.y)))
    for _ in range(steps):
        updates, state = update(state, params)
        params = optax.apply_updates(params, updates)
    return p, params, state


@pytest.mark.parametrize("weighting", [gt.weighting.Tail("out"), gt.weighting.Product("auto")])
def test_a_base_without_momentum_keeps_weights_of_one(weighting: object) -> None:
    p, params, state = trained(optax.rmsprop(0.01), 5, weighting=weighting)
    look = implicit_weights(optax.rmsprop(0.01), p.apply_fn, p.loss, weighting=weighting)
    np.testing.assert_allclose(look(state, params, (p.x, p.y)), 1.0, rtol=1e-12)
    assert float(state.prediction.response) == 0.0


@pytest.mark.parametrize("momentum", [0.02, 0.9])
def test_auto_compares_the_momentum_step_with_the_gradient_response(momentum: float) -> None:
    base = optax.sgd(0.2, momentum=momentum)
    p, params, state = trained(base, 3, weighting=gt.weighting.Product("auto"))
    losses = dense.Losses(p._replace(params=params))
    momentum_step, response = dense.Base(base, state.base, params).split(
        losses.mean_gradient(np.ones(len(p.y)))
    )
    factor = min(1.0, 10 * float(np.linalg.norm(momentum_step) / np.linalg.norm(response)))
    assert factor < 1 if momentum < 0.1 else factor == 1.0
    _, _, after = trained(base, 4, weighting=gt.weighting.Product("auto"))
    np.testing.assert_allclose(after.prediction.response, factor, rtol=1e-6)
    fixed = {"weighting": gt.weighting.Product(factor)}
    looks = [
        implicit_weights(base, p.apply_fn, p.loss, **options)(state, params, (p.x, p.y))
        for options in (fixed, {"weighting": gt.weighting.Product("auto")})
    ]
    np.testing.assert_allclose(looks[0], looks[1], rtol=1e-12)
    assert np.ptp(looks[0]) > 1e-3


@pytest.mark.parametrize("response", ["always", -0.1, 1.5, True, None])
@pytest.mark.parametrize("model", [gt.weighting.Tail, gt.weighting.Product])
def test_bad_responses_are_named(model: type, response: object) -> None:
    with pytest.raises(ValueError, match="number in \\[0, 1\\] or"):
        model(response=response)
