"""FLOPs and bytes of a step against those of the base, as the compiler counts them.

These are the ratios that a device without fixed costs would see. The limits are a little above what
was counted; benchmarks measure time.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

import gtddp_jax as gt
from tests.default_run import quick_cases

NET = gt.Network([nn.Dense(256), nn.tanh, gt.Residual([nn.Dense(256), nn.tanh]), nn.Dense(10)])
X = jax.ShapeDtypeStruct((128, 256), jnp.float32)
LABELS = jax.ShapeDtypeStruct((128,), jnp.int32)
LOSS = optax.softmax_cross_entropy_with_integer_labels
BASE = optax.adam(1e-3)


def implicit_step(**options: Any) -> tuple[Any, Callable[..., Any]]:
    tx = gt.implicit(BASE, **options)
    no_gradient: Any = None

    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        def losses(params: Any) -> gt.Losses:
            return gt.Losses(NET.apply(params, x), lambda outputs: LOSS(outputs, y))

        updates, state = tx.update(no_gradient, state, params, losses=losses)
        return optax.apply_updates(params, updates), state

    return tx, step


def sequential_step(**options: Any) -> tuple[Any, Callable[..., Any]]:
    tx = gt.adam(NET, LOSS, 1e-3, **options)
    no_gradient: Any = None

    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        updates, state = tx.update(no_gradient, state, params, batch=(x, y))
        return optax.apply_updates(params, updates), state

    return tx, step


def plain_step() -> tuple[Any, Callable[..., Any]]:
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        gradient = jax.grad(lambda params: LOSS(NET.apply(params, x), y).mean())(params)
        updates, state = BASE.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return BASE, step


def cost(tx: Any, step: Callable[..., Any]) -> tuple[float, float]:
    """FLOPs and bytes of a step."""
    params = jax.eval_shape(lambda: NET.init(jax.random.key(0), jnp.zeros((1, 256))))
    state = jax.eval_shape(tx.init, params)
    counted: Any = jax.jit(step).lower(params, state, X, LABELS).compile().cost_analysis()
    return counted["flops"], counted["bytes accessed"]


STEPS: dict[str, tuple[Callable[[], Any], float, float]] = {
    "implicit, off": (lambda: implicit_step(strength=0.0), 1.02, 1.10),
    "implicit": (implicit_step, 1.10, 1.30),
    "implicit, full": (lambda: implicit_step(weighting="full"), 2.9, 2.4),
    "sequential, open loop": (lambda: sequential_step(equilibrium="open_loop"), 1.03, 1.9),
    "sequential": (sequential_step, 1.9, 2.6),
}
"""What makes a step, and the largest ratios of its FLOPs and bytes to those of the base."""


@pytest.mark.parametrize("name", quick_cases(STEPS, "implicit"))
def test_a_step_costs_few_bases(name: str) -> None:
    make, most_flops, most_bytes = STEPS[name]
    flops, accessed = cost(*make())
    base_flops, base_accessed = cost(*plain_step())
    assert flops <= most_flops * base_flops
    assert accessed <= most_bytes * base_accessed
