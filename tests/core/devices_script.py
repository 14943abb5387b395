"""Run by test_devices.py with four virtual devices: prints a line for each way that agrees."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gtddp_jax as gt
from gtddp_jax.game.rollout import ROLLOUTS
from gtddp_jax.players import rules
from tests.core import oracle, zoo

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


def run(step: Step, start: Tree, batch: Tree) -> Tree:
    params, state = start
    for _ in range(STEPS):  # an unblocked loop of collectives starves the virtual devices
        params, state = jax.block_until_ready(step(params, state, batch))
    return params, state


def distance(got: Tree, want: Tree) -> float:
    """The largest difference of two arrays, relative to the larger one's largest number."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max([float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs], default=0.0)


class Devices:
    """The ways to spread a batch over four devices."""

    def __init__(self) -> None:
        assert jax.device_count() == DEVICES
        self.mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
        self.jit = functools.partial(jax.jit, compiler_options=oracle.FAST)

    def put(self, tree: Tree, spec: P) -> Tree:
        return jax.device_put(tree, NamedSharding(self.mesh, spec))

    def pmap(self, build: Build, start: Tree, batch: Tree) -> Tree:
        step = jax.pmap(step_of(build(axis_name="data")), axis_name="data")
        copies = jax.tree.map(lambda v: np.stack([v] * DEVICES), start)
        shards = jax.tree.map(lambda v: v.reshape(DEVICES, -1, *v.shape[1:]), batch)
        params, state = run(step, copies, shards)
        for i in range(1, DEVICES):
            jax.tree.map(lambda v, i=i: np.testing.assert_array_equal(v[0], v[i]), params)
        return jax.tree.map(lambda v: v[0], (params, state))

    def shard_map(self, build: Build, start: Tree, batch: Tree) -> Tree:
        step = jax.shard_map(
            step_of(build(axis_name="data")),
            mesh=self.mesh,
            in_specs=(P(), P(), P("data")),
            out_specs=P(),
        )
        return run(self.jit(step), self.put(start, P()), self.put(batch, P("data")))

    def sharded_jit(self, build: Build, start: Tree, batch: Tree) -> Tree:
        step = self.jit(step_of(build()))
        return run(step, self.put(start, P()), self.put(batch, P("data")))

    def one(self, build: Build, start: Tree, batch: Tree) -> Tree:
        return run(self.jit(step_of(build())), start, batch)


def compare(label: str, p: zoo.Problem, build: Build) -> None:
    """Prints for each way whether parameters, statistics and report are those of one device."""
    devices = Devices()
    start, batch = (p.params, build().init(p.params)), (p.x, p.y)
    want, memory = devices.one(build, start, batch)
    for way in (devices.pmap, devices.shard_map, devices.sharded_jit):
        got, state = way(build, start, batch)
        error = max(distance(got, want), distance(state.curvature, memory.curvature))
        same = jax.tree.map(functools.partial(np.allclose, atol=1e-6), state.report, memory.report)
        verdict = "equal" if error < 1e-12 and all(same) else f"differ by {error:.1e}, {same}"
        print(f"{way.__name__}, {label}: {verdict}")


def compare_local_copies(p: zoo.Problem, build: Build) -> None:
    """Parameters that each device holds as its own already are taken as they are."""
    devices, tx = Devices(), build(axis_name="data")
    start, batch = (p.params, tx.init(p.params)), (p.x, p.y)

    def local(params: Tree, state: Tree, batch: Tree) -> Tree:
        params = jax.lax.pcast(params, "data", to="varying")
        return jax.lax.pmean(tx.update(None, state, params, batch=batch)[0], "data")

    specs = {"in_specs": (P(), P(), P("data")), "out_specs": P()}
    step = devices.jit(jax.shard_map(local, mesh=devices.mesh, **specs))
    got = step(*devices.put(start, P()), devices.put(batch, P("data")))
    want, _ = devices.jit(build().update)(None, start[1], p.params, batch=batch)
    print("local copies: equal" if distance(got, want) < 1e-12 else "local copies: differ")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    p = zoo.problem("tiny", batch=2 * DEVICES)
    for method, alias in ALIASES.items():
        for rollout in ROLLOUTS:
            compare(
                f"{method}, {rollout}", p, functools.partial(alias, p.net, LOSS, rollout=rollout)
            )
    compare_local_copies(p, functools.partial(gt.sgd, p.net, LOSS, learning_rate=0.1))
    rules.keep_limit = lambda x, g: 0
    p = zoo.problem("conv_1d", batch=DEVICES)
    build = functools.partial(gt.sgd, p.net, LOSS, learning_rate=0.1)
    compare("recomputed gradients of convolutions", p, build)


if __name__ == "__main__":
    main()
