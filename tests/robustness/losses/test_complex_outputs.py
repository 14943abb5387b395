"""Complex outputs: the game is that of the same model written with pairs of real numbers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from tests.robustness.losses import problems
from tests.robustness.losses.problems import BASE, gtddp, implicit

X, LABELS = problems.inputs()
TARGETS = LABELS.astype(float)


def as_complex(x: jax.Array) -> jax.Array:
    real, imaginary = jnp.split(x, 2, axis=-1)
    return jax.lax.complex(real, imaginary)


def complex_loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Depends on the phase as well."""
    distance = outputs - targets[:, None]
    return jnp.log1p((distance * distance.conj()).real).sum(-1) + jnp.square(outputs.imag).sum(-1)


def real_loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    real, imaginary = jnp.split(outputs, 2, axis=-1)
    square = jnp.square(real - targets[:, None]) + jnp.square(imaginary)
    return jnp.log1p(square).sum(-1) + jnp.square(imaginary).sum(-1)


@pytest.mark.parametrize("weighting", problems.WEIGHTINGS)
def test_the_implicit_game(weighting: str) -> None:
    options = {"weighting": weighting}
    games = [
        implicit(BASE, lambda p, x: as_complex(problems.mlp(p, x)), complex_loss, **options),
        implicit(BASE, problems.mlp, real_loss, **options),
    ]
    params = problems.mlp_params()
    problems.assert_same_game(*(problems.run(tx, params, (X, TARGETS)) for tx in games))


@pytest.mark.parametrize("rollout", ["linear", "nonlinear"])
def test_the_games_on_a_network(rollout: str) -> None:
    """A stage list whose last stage makes complex numbers; all sums share its backward pass."""
    pairs, numbers = problems.network(), problems.network(as_complex)
    params = problems.network_params(pairs, X)
    for both in (
        [
            gtddp(net, loss, gt.curvature.SGD(0.3), rollout=rollout)
            for net, loss in ((numbers, complex_loss), (pairs, real_loss))
        ],
        [
            implicit(BASE, net, loss, weighting="full")
            for net, loss in ((numbers, complex_loss), (pairs, real_loss))
        ],
    )[: 2 if rollout == "linear" else 1]:
        problems.assert_same_game(
            *(problems.run(tx, params, (X, TARGETS), steps=1) for tx in both), tolerance=1e-10
        )


class Spectral(nn.Module):
    """Multiplies complex states by complex numbers made of real parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gain = self.param("gain", nn.initializers.normal(1.0), (1, 4))
        return as_complex(nn.Dense(4)(x)) * as_complex(gain)


@pytest.mark.slow
def test_players_with_complex_numbers_are_refused() -> None:
    """The implicit game takes them."""
    net = gt.Network([Spectral()])
    traced = gt.from_flax(Spectral(), X)
    params = net.init(jax.random.key(0), X)
    curvature = gt.curvature.SGD(0.3)
    for tx, given in (
        (gtddp(net, complex_loss, curvature), params),
        (gtddp(traced, complex_loss, curvature), traced.init(jax.random.key(0), X)),
    ):
        with pytest.raises(ValueError, match="reads or writes complex numbers"):
            problems.trace(tx, given, (X, TARGETS))
    for weighting in problems.WEIGHTINGS:
        problems.trace(implicit(BASE, net, complex_loss, weighting=weighting), params, (X, TARGETS))


@pytest.mark.parametrize("rollout", ["linear", "nonlinear"])
def test_complex_outputs_of_a_traced_model(rollout: str) -> None:
    games = []
    for ending, loss in ((as_complex, complex_loss), (jnp.asarray, real_loss)):
        net: Any = gt.from_flax(nn.Sequential([nn.Dense(5), jnp.tanh, nn.Dense(4), ending]), X)
        tx = gtddp(net, loss, gt.curvature.SGD(0.3), rollout=rollout)
        params = problems.network_params(net, X)
        games.append(problems.run(tx, params, (X, TARGETS), steps=1))
    problems.assert_same_game(*games, tolerance=1e-10)
