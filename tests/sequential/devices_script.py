"""Run by test_devices.py on four virtual devices; prints a line for each placement that agrees."""

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
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.network.sample_gradients import layer_rules
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.sequential import zoo

DEVICES, STEPS = 4, 3
LOSS = zoo.LOSSES["softmax"]
ALIASES = {
    "sgd": functools.partial(gt.sgd, learning_rate=0.1, momentum=0.9),
    "adam": functools.partial(gt.adam, learning_rate=0.05),
}
Tree = Any
Step = Callable[..., Any]
Build = Callable[..., Any]


def step_of(tx: Any) -> Step:
    def step(params: Tree, state: Tree, batch: Tree) -> tuple[Tree, Tree]:
        updates, state = tx.update(None, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    return step


def run(step: Step, start: Tree, batch: Tree, steps: int = STEPS) -> Tree:
    params, state = start
    for _ in range(steps):  # without blocking, a loop of collectives starves the virtual devices
        params, state = jax.block_until_ready(step(params, state, batch))
    return params, state


def distance(got: Tree, want: Tree) -> float:
    """The largest difference of two arrays, relative to their largest absolute value."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max([float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs], default=0.0)


class Devices:
    """The ways to distribute a batch over four devices."""

    def __init__(self) -> None:
        assert jax.device_count() == DEVICES
        self.mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))

    def put(self, tree: Tree, spec: P) -> Tree:
        return jax.device_put(tree, NamedSharding(self.mesh, spec))

    def pmap(self, build: Build, start: Tree, batch: Tree, steps: int = STEPS) -> Tree:
        step = jax.pmap(step_of(build(axis_name="data")), axis_name="data")
        copies = jax.tree.map(lambda v: np.stack([v] * DEVICES), start)
        shards = jax.tree.map(lambda v: v.reshape(DEVICES, -1, *v.shape[1:]), batch)
        params, state = run(step, copies, shards, steps)
        for i in range(1, DEVICES):
            copies = (params, getattr(state, "batch_stats", ()))
            jax.tree.map(lambda v, i=i: np.testing.assert_array_equal(v[0], v[i]), copies)
        return jax.tree.map(lambda v: v[0], (params, state))

    def shard_map(self, build: Build, start: Tree, batch: Tree, steps: int = STEPS) -> Tree:
        step = jax.shard_map(
            step_of(build(axis_name="data")),
            mesh=self.mesh,
            in_specs=(P(), P(), P("data")),
            out_specs=P(),
        )
        return run(jax.jit(step), self.put(start, P()), self.put(batch, P("data")), steps)

    def sharded_jit(self, build: Build, start: Tree, batch: Tree) -> Tree:
        step = jax.jit(step_of(build()))
        return run(step, self.put(start, P()), self.put(batch, P("data")))

    def one(self, build: Build, start: Tree, batch: Tree) -> Tree:
        return run(jax.jit(step_of(build())), start, batch)


def compare(label: str, problem: zoo.Problem, build: Build) -> None:
    """Prints each placement whose parameters, statistics and report equal those of one device."""
    devices = Devices()
    start, batch = (problem.params, build().init(problem.params)), (problem.x, problem.y)
    want, memory = devices.one(build, start, batch)
    for way in (devices.pmap, devices.shard_map, devices.sharded_jit):
        got, state = way(build, start, batch)
        kept = [(s.curvature, s.batch_stats) for s in (state, memory)]
        error = max(distance(got, want), distance(*kept))
        same = jax.tree.map(functools.partial(np.allclose, atol=1e-6), state.report, memory.report)
        is_equal = error < 1e-12 and all(jax.tree.leaves(same))
        verdict = "equal" if is_equal else f"differ by {error:.1e}, {same}"
        print(f"{way.__name__}, {label}: {verdict}")


def compare_local_copies(problem: zoo.Problem, build: Build) -> None:
    """Parameters may already vary over the mapped axis."""
    devices, tx = Devices(), build(axis_name="data")
    start, batch = (problem.params, tx.init(problem.params)), (problem.x, problem.y)

    def local(params: Tree, state: Tree, batch: Tree) -> Tree:
        params = jax.lax.pcast(params, "data", to="varying")
        return jax.lax.pmean(tx.update(None, state, params, batch=batch)[0], "data")

    specs = {"in_specs": (P(), P(), P("data")), "out_specs": P()}
    step = jax.jit(jax.shard_map(local, mesh=devices.mesh, **specs))
    got = step(*devices.put(start, P()), devices.put(batch, P("data")))
    want, _ = jax.jit(build().update)(None, start[1], problem.params, batch=batch)
    print("local copies: equal" if distance(got, want) < 1e-12 else "local copies: differ")


def normalised(axis_name: Any) -> gt.Network:
    """A network with batch normalization, synchronized over `axis_name`."""
    norm = functools.partial(nn.BatchNorm, axis_name=axis_name)
    body = [norm(), jnp.tanh, nn.Dense(3, use_bias=False), norm(use_scale=False)]
    return gt.Network([nn.Dense(3), gt.Residual(body), nn.Dense(2)])


def compare_normalised() -> None:
    """Synchronized statistics are those of the whole batch; others are averaged over devices."""
    problem = zoo.make(zoo.Spec(lambda: list(normalised(None).layers)), batch=4 * DEVICES)
    options = {"learning_rate": 0.05, "batch_stats": problem.batch_stats, "rollout": "nonlinear"}

    def build(axis_name: Any = None) -> Any:
        return gt.sgd(normalised(axis_name), LOSS, axis_name=axis_name, **options)

    compare("batch normalisation", problem, build)

    def alone(axis_name: Any = None) -> Any:
        return gt.sgd(problem.net, LOSS, axis_name=axis_name, **options)

    devices = Devices()
    start, batch = (problem.params, alone().init(problem.params)), (problem.x, problem.y)
    net: Any = problem.net
    _, after = jax.vmap(
        lambda x: net.apply(problem.params, x, batch_stats=problem.batch_stats, train=True)
    )(problem.x.reshape(DEVICES, -1, *problem.x.shape[1:]))
    want = jax.tree.map(lambda v: v.mean(0), after)
    for way in (devices.pmap, devices.shard_map):
        _, state = way(alone, start, batch, steps=1)
        error = distance(state.batch_stats, want)
        print(f"{way.__name__}, statistics by device: {'mean' if error < 1e-12 else error}")


def compare_keys() -> None:
    """Each device drops different units."""
    devices = Devices()

    def local(keys: dict[str, jax.Array]) -> jax.Array:
        own: Any = SampleReductions(1, "data").keys_per_device(keys)
        return jax.random.uniform(own["dropout"], (1,))

    drawn = jax.shard_map(local, mesh=devices.mesh, in_specs=P(), out_specs=P("data"))(
        {"dropout": jax.random.key(0)}
    )
    print(f"keys: {len(set(map(float, drawn)))} different ones")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # each program runs only a few times
    problem = zoo.problem("tiny", batch=2 * DEVICES)
    for (method, alias), rollout in zip(ALIASES.items(), ROLLOUTS, strict=True):
        compare(
            f"{method}, {rollout}",
            problem,
            functools.partial(alias, problem.net, LOSS, rollout=rollout),
        )
    compare_local_copies(problem, functools.partial(gt.sgd, problem.net, LOSS, learning_rate=0.1))
    layer_rules.keep_limit = lambda x, g: 0
    problem = zoo.problem("conv_1d", batch=DEVICES)
    build = functools.partial(gt.sgd, problem.net, LOSS, learning_rate=0.1)
    compare("recomputed gradients of convolutions", problem, build)
    compare_normalised()
    compare_keys()


if __name__ == "__main__":
    main()
