"""Run by test_mapped_axes.py with four virtual devices; prints a line per way and model."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import gtddp_jax as gt

Tree = Any
DEVICES, STEPS = 4, 2
AXIS = "batch"
X = jnp.sin(jnp.arange(3.0 * 2 * DEVICES)).reshape(-1, 3)
LABELS = jnp.arange(2 * DEVICES) % 3
LOSS = optax.softmax_cross_entropy_with_integer_labels


class Normed(nn.Module):
    """BatchNorm as in Flax's examples: synchronized over the devices."""

    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = nn.Dense(4, param_dtype=float)(x)
        norm = nn.BatchNorm(not train, axis_name=self.axis_name, param_dtype=float)
        return nn.Dense(3, param_dtype=float)(nn.tanh(norm(x)))


class Operations(nn.Module):
    """Loops, branches, functions with their own derivative, constants: each is traced by itself."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = nn.Dense(3, param_dtype=float, name="first")
        x = nn.relu(nn.remat(nn.LayerNorm)(param_dtype=float)(dense(x)))
        layers = nn.scan(
            lambda layer, carry: (jnp.sin(layer(carry)), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=2,
        )
        x, _ = layers(nn.Dense(3, param_dtype=float, name="scanned"), x)
        scale = self.param("scale", nn.initializers.ones, (3,), float)
        x = jnp.sort(x * scale[None] + jnp.arange(3.0)[None])
        return jax.lax.cond(jnp.asarray(True), lambda y: y, lambda y: 0 * y, x)


class NormedNnx(nnx.Module):
    """The same as an nnx module."""

    def __init__(self, axis_name: str | None) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 4, rngs=rngs, param_dtype=float)
        self.norm = nnx.BatchNorm(4, axis_name=axis_name, rngs=rngs, param_dtype=float)
        # In the default precision, as everything else.
        self.norm.mean = nnx.BatchStat(jnp.zeros(4))
        self.norm.var = nnx.BatchStat(jnp.ones(4))
        self.last = nnx.Linear(4, 3, rngs=rngs, param_dtype=float)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(nnx.tanh(self.norm(self.first(x))))


def linen_case(axis_name: str | None) -> tuple[Any, Tree]:
    """A sequential optimizer on the linen model, and its parameters."""
    net = gt.from_flax(Normed(axis_name), X, axis_name=axis_name)
    variables = as_float64(net.init_variables(jax.random.key(0), X))
    options: Any = {"axis_name": axis_name, "batch_stats": variables["batch_stats"]}
    options["rollout"] = "nonlinear"
    return gt.sgd(net, LOSS, 0.1, 0.9, **options), variables["params"]


def operations_case(axis_name: str | None) -> tuple[Any, Tree]:
    """A sequential optimizer on a model with many kinds of operations."""
    net = gt.from_flax(Operations(), X)
    return gt.sgd(net, LOSS, 0.1, axis_name=axis_name), net.init(jax.random.key(0), X)


def nnx_case(axis_name: str | None) -> tuple[Any, Tree]:
    """A sequential optimizer on the nnx model, and its parameters."""
    net = gt.from_flax(NormedNnx(axis_name), X, axis_name=axis_name)
    variables = as_float64(net.init_variables(jax.random.key(0), X))
    options = {"axis_name": axis_name, "batch_stats": variables["batch_stats"]}
    return gt.sgd(net, LOSS, 0.1, **options), variables["params"]


def implicit_case(axis_name: str | None) -> tuple[Any, Tree]:
    """The implicit game on the linen model; its statistics are constants of the function."""
    model = Normed(axis_name)
    variables = as_float64(model.init(jax.random.key(0), X))

    def apply_fn(params: Tree, inputs: jax.Array) -> Any:
        given = {**variables, "params": params}
        outputs, changed = model.apply(given, inputs, mutable=["batch_stats"])
        return outputs, changed["batch_stats"]

    aux = variables["batch_stats"]
    options = {"has_aux": True, "aux": aux, "axis_name": axis_name}
    return gt.implicit(optax.sgd(0.1, 0.9), apply_fn, LOSS, **options), variables["params"]


CASES: dict[str, Callable[[str | None], tuple[Any, Tree]]] = {
    "linen": linen_case,
    "nnx": nnx_case,
    "operations": operations_case,
    "implicit": implicit_case,
}


def as_float64(tree: Tree) -> Tree:
    """Statistics and nnx parameters start in float32."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf, float)), tree)


def distance(first: Tree, second: Tree) -> float:
    """The largest difference between the leaves of two trees."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    errors = (np.abs(np.asarray(a, float) - np.asarray(b, float)).max() for a, b in pairs)
    return max(map(float, errors), default=0.0)


def step_of(tx: Any) -> Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]:
    def step(params: Tree, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        updates, state = tx.update(None, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    return step


def run(step: Any, params: Tree, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
    for _ in range(STEPS):
        # Two programs at once could wait for each other's threads.
        params, state = jax.block_until_ready(step(params, state, batch))
    return params, state


def on_one(tx: Any, params: Tree) -> tuple[Tree, Tree]:
    return run(jax.jit(step_of(tx)), params, tx.init(params), (X, LABELS))


def by_pmap(tx: Any, params: Tree) -> tuple[Tree, Tree]:
    copies = jax.tree.map(lambda v: np.stack([v] * DEVICES), (params, tx.init(params)))
    shards = jax.tree.map(lambda v: v.reshape(DEVICES, -1, *v.shape[1:]), (X, LABELS))
    params, state = copies
    result = run(jax.pmap(step_of(tx), axis_name=AXIS), params, state, shards)
    for device in range(1, DEVICES):
        assert distance(*(jax.tree.map(lambda v, i=i: v[i], result) for i in (0, device))) < 1e-15
    return jax.tree.map(lambda v: v[0], result)


def by_shard_map(tx: Any, params: Tree) -> tuple[Tree, Tree]:
    mesh = jax.make_mesh((DEVICES,), (AXIS,), axis_types=(AxisType.Auto,))
    whole, shards = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(step_of(tx), mesh=mesh, in_specs=(whole, whole, shards), out_specs=whole)
    return run(jax.jit(mapped), params, tx.init(params), (X, LABELS))


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # each program runs a few times only
    for name, make in CASES.items():
        want, memory = on_one(*make(None))
        for way in (by_pmap, by_shard_map):
            got, state = way(*make(AXIS))
            kept = [
                getattr(each, "batch_stats", getattr(each, "aux", None)) for each in (state, memory)
            ]
            moved = [(each.report.loss, each.report.sample_weight_std) for each in (state, memory)]
            error = max(distance(got, want), distance(*kept))
            same = distance(*moved) < 1e-6 and not state.report.skipped
            print(f"{way.__name__}, {name}: {'equal' if error < 1e-12 and same else error}")


if __name__ == "__main__":
    main()
