"""Players without a Kronecker form: damped second moments of each parameter, by formula."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from typing_extensions import override

import gtddp_jax as gt
from tests.sequential import methods, oracle, zoo

BATCH = 4


def _at(value: Any, memory: methods.Memory) -> Any:
    return value(memory["count"]) if callable(value) else value


class OpenMethod(methods.Method):
    """A method whose statistics are those of the open gradient."""

    @property
    @override
    def is_open(self) -> bool:
        return True


def damped_moments(
    curvature: Any, rate: Any, gamma: Any, momentum: float, decay: float, weight_decay: float
) -> methods.Method:
    """`P = eta / (s + gamma)`, s the bias-corrected running mean of `B q^2`."""

    def start(m: int) -> methods.Memory:
        return {"s": jnp.zeros(m), "trace": jnp.zeros(m), "count": 0}

    def after(q: jax.Array, memory: methods.Memory) -> methods.Memory:
        return gained(q, memory)[2]

    def gained(q: jax.Array, memory: methods.Memory) -> tuple[jax.Array, jax.Array, Any]:
        n = memory["count"]
        s = decay * memory["s"] + (1 - decay) * BATCH * q**2
        p = 1 / (s / (1 - decay ** (n + 1)) + _at(gamma, memory))
        trace = p * q + momentum * memory["trace"]
        return trace, p, {"s": s, "trace": trace, "count": n + 1}

    def gains(
        q: jax.Array, memory: methods.Memory, facts: methods.Facts
    ) -> tuple[jax.Array, jax.Array]:
        trace, p, _ = gained(q, memory)
        eta = _at(rate, memory)
        return -eta * (trace + weight_decay * facts.u), eta * p

    return OpenMethod(curvature, start, gains, after)


def schedule(count: Any) -> Any:
    return 0.3 / (1 + count)


SPEC = zoo.Spec(
    lambda: [zoo.Gate(), jnp.tanh, nn.LayerNorm(), gt.Residual([zoo.Gate(), jnp.tanh]), zoo.Gate()]
)


@pytest.mark.slow
def test_steps_equal_the_dense_definition() -> None:
    plain = gt.curvature.KFAC(0.1, 0.5, factor_decay=0.7)
    changing = gt.curvature.EKFAC(schedule, schedule, 0.5, weight_decay=0.1, factor_decay=0.0)
    games = {
        "kfac": oracle.Game("squared", damped_moments(plain, 0.1, 0.5, 0.0, 0.7, 0.0)),
        "ekfac, schedules": oracle.Game(
            "squared",
            damped_moments(changing, schedule, schedule, 0.5, 0.0, 0.1),
            "gradient",
            "nonlinear",
        ),
    }
    oracle.compare(zoo.make(SPEC, batch=BATCH), games, steps=3, spread=0.01)


@pytest.mark.slow
def test_a_stage_may_mix_both_kinds_of_players() -> None:
    """Each kind takes the step that it takes in a stage of its own, as nothing couples them."""
    x = jnp.sin(jnp.arange(12.0)).reshape(BATCH, 3)
    loss = zoo.LOSSES["squared"]
    net = gt.Network([gt.Cooperative([nn.Dense(3), zoo.Gate()])])
    params: Any = zoo.cast(net.init(jax.random.key(0), x), jnp.float64)
    tx: Any = gt.kfac(net, loss, 0.1, 0.2)
    updates, _ = jax.jit(tx.update)(None, tx.init(params), params, batch=(x, x**2))

    gradient = jax.grad(lambda p: loss(net.apply(p, x), x**2).mean())(params)["Gate_0"]
    want = jax.tree.map(lambda q: -0.1 * q / (BATCH * q**2 + 0.2), gradient)
    assert oracle.relative_error({"Gate_0": updates["Gate_0"]}, {"Gate_0": want}) < 1e-12


def test_the_description_names_the_method() -> None:
    net = gt.Network([nn.Dense(3), nn.LayerNorm(), nn.Dense(2)])
    x = jnp.ones((5, 4))
    params = net.init(jax.random.key(0), x)
    text = gt.explain(net, params, x, gt.curvature.EKFAC(0.1))
    line = next(line for line in text.splitlines() if "LayerNorm_0" in line)
    assert line.endswith("diagonal (no Kronecker form)")
