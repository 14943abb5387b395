"""Run on several virtual devices: a step over all of them equals the step on one device.

    python -m tests.properties.devices --seed 0 --worlds 3

Prints a line for each placement and world, ending with its error.
"""

import argparse
import functools
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gtddp_jax as gt
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.properties import bases, implicit, plans
from tests.properties.findings import distance
from tests.sequential import zoo

Tree = Any


class World:
    """Both games on a random network, on one device and on all devices.

    Args:
        seed: the seed of all worlds.
        index: the index of this world.
    """

    def __init__(self, seed: int, index: int) -> None:
        rng = np.random.default_rng([seed, index])
        self._mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
        draw = plans.Draw(rng, str(rng.choice(list(plans.INPUTS))), generic=False, coupled=False)
        plan = draw.network(most=2)
        spec = zoo.Spec(lambda: plans.layers(plan), plans.INPUTS[plan.inputs])
        batch = jax.device_count() * int(rng.integers(2, 4))
        self._p = zoo.make(spec, batch=batch, seed=index)
        self._loss = zoo.LOSSES[str(rng.choice(list(zoo.LOSSES)))]
        self._base = bases.draw(rng)
        self._rollout = str(rng.choice(list(ROLLOUTS)))
        self._name = str(rng.choice(list(implicit.BASES)))
        self._weighting = str(rng.choice(["full", "sketch"]))
        self._game = ("sequential", "implicit")[index % 2]

    def __str__(self) -> str:
        base = self._base.label if self._game == "sequential" else self._name
        return f"{self._game}, {base}"

    def _step(
        self, params: Tree, state: Tree, batch: Tree, axis_name: Any = None
    ) -> tuple[Tree, Tree]:
        updates, state = self._optimizer(axis_name).update(None, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    def _optimizer(self, axis_name: Any) -> Any:
        p = self._p
        if self._game == "sequential":
            curvature = self._base.curvature(self._base.hyper)
            options = {"rollout": self._rollout, "axis_name": axis_name}
            return gt.gtddp(p.net, self._loss, curvature, **options)
        base = implicit.BASES[self._name](1.0)
        weighting = self._weighting
        options = {"weighting": weighting, "bounds": (0.0, 10.0), "axis_name": axis_name}
        return gt.implicit(base, p.net, self._loss, **options)

    def errors(self) -> dict[str, float]:
        """For each placement of the batch, the error of two steps against one device."""
        start = self._p.params, self._optimizer(None).init(self._p.params)
        batch = self._p.x, self._p.y
        shards = functools.partial(jax.device_put, device=NamedSharding(self._mesh, P("data")))
        copies = functools.partial(jax.device_put, device=NamedSharding(self._mesh, P()))
        local = jax.shard_map(
            functools.partial(self._step, axis_name="data"),
            mesh=self._mesh,
            in_specs=(P(), P(), P("data")),
            out_specs=P(),
        )
        want = self._twice(jax.jit(self._step), start, batch)
        found = {}
        for way, step in {"jit": self._step, "shard_map": local}.items():
            got = self._twice(jax.jit(step), copies(start), shards(batch))
            found[way] = distance(got, want)
        return found

    def _twice(self, step: Any, start: Tree, batch: Tree) -> Tree:
        params, state = start
        for _ in range(2):  # without blocking, a loop of collectives starves the virtual devices
            params, state = jax.block_until_ready(step(params, state, batch))
        assert not state.report.skipped
        return params


def main() -> None:
    """Checks the worlds."""
    parser = argparse.ArgumentParser("python -m tests.properties.devices")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worlds", type=int, default=3)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    for index in range(options.worlds):
        world = World(options.seed, index)
        for way, error in world.errors().items():
            print(f"{index}, {world}, {way}: {error:.1e}", flush=True)


if __name__ == "__main__":
    main()
