"""Trees that hold more than parameters: only floating-point arrays are trained."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt


def losses(model: Any) -> gt.Losses:
    assert model["activation"] is jnp.tanh and model["shift"] == 2
    outputs = model["activation"](model["w"] + model["shift"] * model["rate"])
    return gt.Losses(outputs, jnp.square)


def test_gradients_are_those_of_equinox() -> None:
    model = {"w": jnp.arange(3.0), "activation": jnp.tanh, "shift": np.array(2), "rate": 0.5}
    (loss, _), gradient = gt.value_and_grad(losses)(model)
    want_loss, want = eqx.filter_value_and_grad(lambda model: gt.mean_loss(losses)(model)[0])(model)
    assert loss == want_loss and (gradient["w"] == want["w"]).all()
    assert gradient["activation"] is gradient["shift"] is gradient["rate"] is None


def test_a_tree_of_numbers_is_a_tree_of_parameters() -> None:
    """As for `jax.grad`, Python numbers are trained there, and integers are refused."""

    def losses(params: Any) -> gt.Losses:
        return gt.Losses(params["a"] * params["b"], jnp.square)

    (_, _), gradient = gt.value_and_grad(losses)({"a": jnp.ones(2), "b": 3.0})
    assert gradient["b"] == 6.0
    with pytest.raises(TypeError, match="int"):
        gt.value_and_grad(losses)({"a": jnp.ones(2), "b": jnp.array(3)})
