"""Samples that influence each other inside of loops, branches and custom derivatives are seen."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt

BATCH = 4
X = np.sin(np.arange(3.0 * BATCH)).reshape(BATCH, 3)
LABELS = np.arange(BATCH) % 3
LOSS = optax.softmax_cross_entropy_with_integer_labels
Wrapper = Callable[[Callable[[jax.Array], jax.Array]], Callable[[jax.Array], jax.Array]]


def standardize(x: jax.Array) -> jax.Array:
    return x - x.mean(0, keepdims=True)


def with_rule(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    wrapped = jax.custom_jvp(function)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))
    return wrapped


def from_last_iteration(
    function: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
    """What is subtracted in an iteration was computed in the one before."""

    def looped(x: jax.Array) -> jax.Array:
        def iteration(carry: Any, _: None) -> Any:
            x, mean = carry
            return (x - mean, (x - function(x)).mean(0, keepdims=True)), None

        start = (x, jnp.zeros((1, x.shape[1]), x.dtype))
        return jax.lax.scan(iteration, start, None, length=2)[0][0]

    return looped


WRAPPERS: dict[str, Wrapper] = {
    "plain": lambda function: function,
    "custom_jvp": with_rule,
    "cond": lambda function: lambda x: jax.lax.cond(x.shape[0] > 0, function, lambda x: x, x),
    "cond in scan": lambda function: (
        lambda x: jax.lax.scan(
            lambda x, flag: (jax.lax.cond(flag, function, function, x), None), x, jnp.ones(1, bool)
        )[0]
    ),
    "next iteration": from_last_iteration,
    "reversed": lambda function: lambda x: 0.5 * (x + x[::-1]),
    "cumulated": lambda function: lambda x: jnp.cumsum(x, axis=0),
}


class Coupled(nn.Module):
    """A layer, a function that couples samples, and a head; parameters stay outside of it."""

    wrapper: Wrapper

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.wrapper(standardize)(nn.Dense(3, param_dtype=float)(x))
        return nn.Dense(3, param_dtype=float)(nn.tanh(x))


class Looped(nn.Module):
    """A loop in which a parameter acts."""

    couples: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.param("w", nn.initializers.normal(1.0, dtype=float), (2, 3, 3))

        def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            x = x @ w
            return jnp.tanh(standardize(x) if self.couples else x), None

        return nn.Dense(3, param_dtype=float)(jax.lax.scan(layer, x, w)[0])


class ScannedNorm(nn.Module):
    """Batch normalization in layers that `nn.scan` stacks."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
                return nn.BatchNorm(use_running_average=False)(nn.Dense(3)(x)), None

        axes: Any = {"params": 0, "batch_stats": 0}
        layers = nn.scan(Layer, axes, split_rngs={"params": True}, length=2)
        return nn.Dense(3)(layers(name="layers")(x, None)[0])


def step_of(model: nn.Module) -> Any:
    net = gt.from_flax(model, X)
    params = net.init(jax.random.key(0), X)
    tx: Any = gt.sgd(net, LOSS, 1.0)
    return jax.jit(lambda: tx.update(None, tx.init(params), params, batch=(X, LABELS))[0])()


@pytest.mark.parametrize("name", WRAPPERS)
def test_stages_before_the_coupling_have_no_feedback(name: str) -> None:
    net = gt.from_flax(Coupled(WRAPPERS[name]), X)
    assert (net.coupled_stages, len(net.stages)) == (1, 2)


@pytest.mark.parametrize("name", ["custom_jvp", "cond in scan"])
def test_the_step_is_that_of_the_plain_model(name: str) -> None:
    got, want = (step_of(Coupled(WRAPPERS[each])) for each in (name, "plain"))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max() < 1e-12, got, want)))


def test_other_loops_couple_nothing() -> None:
    assert gt.from_flax(Looped(couples=False), X).coupled_stages == 0


@pytest.mark.parametrize(
    "model", [Looped(couples=True), ScannedNorm()], ids=["standardized", "BatchNorm"]
)
def test_parameters_inside_are_refused(model: nn.Module) -> None:
    with pytest.raises(gt.NetworkError) as error, jax.enable_x64(isinstance(model, Looped)):
        gt.from_flax(model, X)
    assert "samples influence each other inside of this operation" in str(error.value)
    assert "in `scan`" in str(error.value) and "gtddp_jax.implicit" in str(error.value)
