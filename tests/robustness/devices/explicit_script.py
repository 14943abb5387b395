"""Games on a mesh with axes of type Explicit; run by test_explicit.py with four virtual devices."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gtddp_jax as gt
from tests.sequential.devices_script import distance

Tree = Any
Case = tuple[Any, Tree, dict[str, Any]]
"""A transformation, its parameters, further arguments of `update`."""

HIDDEN = 4
# NumPy's, because double precision is only switched on later.
X = np.random.default_rng(0).normal(size=(8, 6))
LABELS = np.arange(8) % 3
MATRIX_FREE = gt.weighting.Exact(steps=1, form="matrix_free", solver_steps=4)
dense = functools.partial(nn.Dense, param_dtype=float)
convolution = functools.partial(nn.Conv, 2, (3,), param_dtype=float)


class Convolutional(nn.Module):
    """A model with a constant and dropout."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.gelu(convolution()(x[..., None]) + jnp.sin(jnp.arange(2.0))[None, None])
        x = nn.Dropout(0.2, deterministic=False)(x.reshape(len(x), -1))
        return dense(3)(dense(HIDDEN)(x))


def network() -> gt.Network:
    layers = [lambda x: x[..., None], convolution(), nn.relu, lambda x: x.reshape(len(x), -1)]
    return gt.Network([*layers, dense(HIDDEN), gt.Residual([dense(HIDDEN), nn.tanh]), dense(3)])


def small_network() -> gt.Network:
    return gt.Network([dense(HIDDEN), nn.tanh, dense(3)])


def make_loss() -> Any:
    """A loss that closes over an array, and says how its result is spread."""
    class_weights = jnp.asarray([1.0, 2.0, 3.0])
    if not jax.sharding.get_abstract_mesh().empty:
        class_weights = jax.device_put(class_weights, P())

    def loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        spread = jax.typeof(labels).sharding
        weights = class_weights.at[labels].get(out_sharding=spread if spread.mesh.size else None)
        return weights * optax.softmax_cross_entropy_with_integer_labels(outputs, labels)

    return loss


def implicit_function(weighting: Any, net: gt.Network) -> Case:
    model = functools.partial(net.apply)
    tx = gt.implicit(optax.adam(0.1), model, make_loss(), weighting=weighting)
    return tx, net.init(jax.random.key(0), X), {}


def implicit_network() -> Case:
    net = network()

    def game(rate: Any) -> Any:
        return gt.implicit(optax.sgd(rate, 0.9), net, make_loss(), weighting="full")

    return optax.inject_hyperparams(game)(rate=0.1), net.init(jax.random.key(0), X), {}


def sequential(method: Any, net: gt.Network, **options: Any) -> Case:
    loss = make_loss()
    tx = optax.inject_hyperparams(lambda rate: method(net, loss, rate, **options))(rate=0.05)
    return tx, net.init(jax.random.key(0), X), {}


def flax_model() -> Case:
    net = gt.from_flax(Convolutional(), X)
    tx = gt.sgd(net, make_loss(), 0.1, 0.9, rollout="nonlinear")
    return tx, net.init(jax.random.key(0), X), {"rngs": {"dropout": jax.random.key(2)}}


def soap() -> Case:
    """Gradients with null spaces of one dimension at most, whose bases are unique."""
    net = gt.Network([dense(HIDDEN), nn.tanh, dense(HIDDEN)])
    return sequential(functools.partial(gt.soap, eps=0.1, max_precond_dim=HIDDEN), net)


CASES: dict[str, Callable[[], Case]] = {
    "sketch": lambda: implicit_function("sketch", small_network()),
    "exact": lambda: implicit_function(gt.weighting.Exact(steps=1), network()),
    "exact, matrix-free": lambda: implicit_function(MATRIX_FREE, small_network()),
    "full": implicit_network,
    "sgd": lambda: sequential(gt.sgd, network(), rollout="nonlinear"),
    "ekfac": lambda: sequential(gt.ekfac, small_network()),
    "from_flax": flax_model,
    "soap": soap,
}


def step_of(case: Case) -> Callable[[Tree, Tree, Tree], tuple[Tree, Tree, list[jax.Array]]]:
    """A step: the new parameters and state, and the sample weights."""
    tx, _, options = case

    def step(params: Tree, state: Tree, batch: Tree) -> tuple[Tree, Tree, list[jax.Array]]:
        seen: list[jax.Array] = []
        updates, state = tx.update(None, state, params, batch=batch, observe=seen.append, **options)
        return optax.apply_updates(params, updates), state, seen

    return step


def take_steps(case: Case, params: Tree, batch: Tree) -> tuple[Tree, Tree]:
    """The parameters after two steps, and the weights of the last one."""
    step, state, weights = jax.jit(step_of(case)), case[0].init(params), []
    for _ in range(2):
        # Virtual devices have to finish a step before the next one.
        params, state, weights = jax.block_until_ready(step(params, state, batch))
    return params, weights


def spread_kernel(leaf: jax.Array, mesh: Any) -> P:
    """Columns of hidden kernels over the axis `model`, if there is one."""
    is_hidden = leaf.ndim == 2 and leaf.shape[1] == HIDDEN
    return P(None, "model") if is_hidden and "model" in mesh.shape else P()


def spread(case: Case, mesh: Any) -> tuple[Tree, Tree]:
    """The parameters and a batch on a mesh."""
    params = jax.tree.map(
        lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spread_kernel(leaf, mesh))), case[1]
    )
    return params, jax.device_put((X, LABELS), NamedSharding(mesh, P("data")))


def error_on(mesh: Any, make: Callable[[], Case]) -> float:
    """How far two steps on a mesh are from those of one device without a mesh."""
    case = make()
    want, want_weights = take_steps(case, case[1], (X, LABELS))
    assert float(want_weights[0].std()) > 1e-3, "a game of which nothing is seen"
    with jax.set_mesh(mesh):
        case = make()
        params, batch = spread(case, mesh)
        got, weights = take_steps(case, params, batch)
    for new, old in zip(jax.tree.leaves(got), jax.tree.leaves(params), strict=True):
        assert new.sharding.is_equivalent_to(old.sharding, old.ndim), "spread in another way"
    return max(distance(got, want), distance(weights, want_weights))


def explicit_mesh_of(**sizes: int) -> Any:
    types = (AxisType.Explicit,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # each program runs twice only
    meshes = {"data": explicit_mesh_of(data=4), "data, model": explicit_mesh_of(data=2, model=2)}
    for index, (name, make) in enumerate(CASES.items()):
        # Each case in one of the ways; they are independent.
        label, mesh = list(meshes.items())[index % 2]
        error = error_on(mesh, make)
        verdict = "equal" if error < 1e-10 else error
        print(f"{name}, {label}: {verdict}")


if __name__ == "__main__":
    main()
