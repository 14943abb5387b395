"""Wrong arguments of the Kronecker curvatures are named, with what is supported."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from tests.sequential import zoo

LOSS = zoo.LOSSES["squared"]
MESSAGES = {
    "learning_rate": (-1.0, "give a number >= 0 or an optax schedule"),
    "damping": (0.0, r"damping=0\.0\): give a number > 0"),
    "norm_constraint": (-1.0, "give a number > 0"),
    "factor_decay": (1.0, r"give a number in \[0, 1\)"),
    "factors_every": (0, "give an int >= 1"),
    "refresh_every": (2.5, "give an int >= 1"),
    "full_limit": (0, "give an int >= 1"),
    "window_rows": (-3, "give an int >= 1"),
    "positions": ("all", r"invalid positions: 'all'\. Supported: \('expand', 'reduce'\)"),
    "cooperative": ("yes", r"invalid cooperative: 'yes'\. Supported: \('none', 'theorem3'"),
    "other": (3, r"need SGD, RMSProp or Adam from gtddp_jax\.curvature"),
}


@pytest.mark.parametrize("method", ["kfac", "ekfac"])
@pytest.mark.parametrize("name", MESSAGES)
def test_wrong_values_are_named(method: str, name: str) -> None:
    value, message = MESSAGES[name]
    options: dict[str, Any] = {"learning_rate": 0.1, name: value}
    with pytest.raises(ValueError, match=message):
        gt.curvature.CURVATURES[method](**options)


def test_wrong_values_of_one_method_alone() -> None:
    with pytest.raises(ValueError, match=r"invalid damping_form: 'x'\. Supported: \('exact'"):
        gt.curvature.KFAC(0.1, damping_form="x")
    with pytest.raises(ValueError, match=r"invalid mode: 'x'\. Supported: \('running'"):
        gt.curvature.EKFAC(0.1, mode="x")
    with pytest.raises(ValueError, match=r"scale_decay=1\.5"):
        gt.curvature.EKFAC(0.1, scale_decay=1.5)


def test_players_without_a_kronecker_form_may_have_a_method_of_their_own() -> None:
    net = gt.Network([nn.Dense(3), nn.LayerNorm(), nn.Dense(2)])
    params = net.init(jax.random.key(0), jnp.ones((1, 4)))
    curvature = gt.curvature.KFAC(0.1, other=gt.curvature.Adam(1e-3))
    text = gt.explain(net, params, jnp.ones((5, 4)), curvature)
    assert "LayerNorm_0" in text and text.splitlines()[3].endswith("Adam")
    assert "5 x 3" in text and "4 x 2" in text and "Gflop a refresh" in text
    gt.gtddp(net, LOSS, curvature).init(params)
