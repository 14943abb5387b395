"""The joint game on four virtual devices; run by test_joint.py, prints a line per case and way."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gtddp_jax as gt
from tests.joint.problems import PARAMS, boundary, cross_entropy, interior, logits, points
from tests.sequential.devices_script import DEVICES, Devices, distance

Tree = Any
EDGE = (points(4, 4), np.array([0.3, -0.1, 0.5, 0.2]))
LABELLED = {"x": points(8, 5), "label": np.arange(8) % 3}
BATCH = {"boundary": EDGE, "labels": LABELLED, "pde": points(8, 3)}
SQUARED = {"pde": interior, "boundary": gt.Term(boundary, weight=3.0)}
CONVEX = {"labels": gt.Term(logits, cross_entropy, 2.0), "pde": interior}
STEP = gt.step_control.FixedRate(1.0, norm_constraint=1.0)


def with_losses(axis_name: Any) -> Any:
    """A game with a function of losses as one with a batch; a mask has different sums."""
    options: Any = {"acceleration": 10.0, "side": "dual", "axis_name": axis_name}
    tx = gt.joint(None, 1e-2, 0.5, step=STEP, **options)

    def update(updates: Any, state: Any, params: Any = None, *, batch: Any = None) -> Any:
        x, labels = batch["labels"]["x"], batch["labels"]["label"]

        def losses(params: Any) -> gt.Losses:
            outputs = jnp.tanh(x @ params["hidden"]) @ params["readout"]
            cost = optax.softmax_cross_entropy_with_integer_labels
            decay = 1e-3 * jnp.square(params["readout"]).sum()
            mask = labels + 1
            return gt.Losses(outputs, lambda o: cost(o, labels), mask, decay)

        return tx.update(updates, state, params, losses=losses)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def with_terms(terms: Any, *args: Any, **options: Any) -> Callable[..., Any]:
    def build(axis_name: Any = None) -> Any:
        tx = gt.joint(terms, *args, axis_name=axis_name, **options)

        def update(updates: Any, state: Any, params: Any = None, *, batch: Any = None) -> Any:
            own = {name: batch[name] for name in terms}
            return tx.update(updates, state, params, batch=own, validation_batch=own)

        return optax.GradientTransformationExtraArgs(tx.init, update)

    return build


CASES: dict[str, Callable[..., Any]] = {
    "dual": with_terms(
        SQUARED,
        gt.damping.LossDamping(1e-2),
        0.5,
        gt.metrics.AdamMetric(eps=1e-3),
        chunk=1,
        side="dual",
        acceleration=10.0,
    ),
    "primal": with_terms(
        CONVEX,
        gt.damping.LevenbergMarquardt(0.1),
        step=STEP,
        chunk=1,
        side="primal",
        acceleration=10.0,
    ),
    "matrix-free": with_terms(
        SQUARED, 1e-1, side="matrix_free", step=STEP, conjugate_gradient_steps=300
    ),
    "losses": lambda axis_name=None: with_losses(axis_name),
}


def side_by_side(axis_name: Any = None) -> Any:
    """All cases at once, each with its own parameters, for a single compilation."""
    table = {name: build(axis_name) for name, build in CASES.items()}

    def init(params: Tree) -> Tree:
        return {name: tx.init(params[name]) for name, tx in table.items()}

    def update(updates: Any, state: Any, params: Any = None, *, batch: Any = None) -> Any:
        found = {
            name: tx.update(None, state[name], params[name], batch=batch)
            for name, tx in table.items()
        }
        return {k: v[0] for k, v in found.items()}, {k: v[1] for k, v in found.items()}

    return optax.GradientTransformationExtraArgs(init, update)


def figures(state: Any) -> Any:
    """What of a report is more than a flag, without estimates from different starts."""
    report = state.report._asdict()
    return {k: v for k, v in report.items() if k not in ("condition", "linear_residual")}


def explicit(build: Any, start: Tree, batch: Tree) -> Tree:
    """`jit` on a mesh with axes of type Explicit, where arrays tell how they are spread."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        placed = jax.device_put(batch, NamedSharding(mesh, P("data")))
        params, state = jax.device_put(start, NamedSharding(mesh, P()))
        update = jax.jit(build().update)
        for _ in range(3):
            updates, state = jax.block_until_ready(update(None, state, params, batch=placed))
            params = optax.apply_updates(params, updates)
    return params, state


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # each program runs a few times
    devices = Devices()
    params = {name: jax.tree.map(jnp.asarray, PARAMS) for name in CASES}
    start = jax.tree.map(jnp.copy, (params, side_by_side().init(params)))
    want, memory = devices.one(side_by_side, start, BATCH)
    for way in (devices.pmap, devices.shard_map, devices.sharded_jit):
        got, state = way(side_by_side, start, BATCH)
        for name, now in memory.items():
            assert not now.report.skipped_steps, name
            error = distance(got[name], want[name])
            close = jax.tree.map(
                lambda a, b: bool(np.allclose(a, b, rtol=1e-4, atol=1e-6)),
                figures(state[name]),
                figures(now),
            )
            verdict = "equal" if error < 1e-10 and all(jax.tree.leaves(close)) else (error, close)
            print(f"{way.__name__}, {name}: {verdict}")
    single = {"dual": CASES["dual"]}
    got, _ = explicit(
        single["dual"], jax.tree.map(lambda t: t, (params["dual"], start[1]["dual"])), BATCH
    )
    print("explicit, dual:", "equal" if distance(got, want["dual"]) < 1e-10 else "differ")


if __name__ == "__main__":
    main()
