"""Run by test_devices.py with four virtual devices; prints a line per parallelism and case."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_jax.tracing import gradient_bounds
from tests.implicit.models import implicit
from tests.sequential import zoo
from tests.sequential.devices_script import DEVICES, LOSS, Devices, distance

Tree = Any
SGD, ADAM = optax.sgd(0.2, momentum=0.9), optax.adam(0.05)
EXACT = gt.weighting.Exact(steps=3, form="matrix_free", solver_steps=8)
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sketch": (ADAM, {"weighting": gt.weighting.Sketch(share=0.3)}),
    "full": (SGD, {"weighting": "full"}),
    "exact": (ADAM, {"weighting": EXACT}),
}
"""Base, options."""


def transformations(p: zoo.Problem, axis_name: Any = None) -> dict[str, Any]:
    return {
        label: implicit(base, p.net, LOSS, axis_name=axis_name, **options)
        for label, (base, options) in CASES.items()
    }


def side_by_side(table: dict[str, Any]) -> Any:
    """All transformations at once, each with its own parameters, for a single compilation."""

    def init(params: Tree) -> Tree:
        return {label: tx.init(params[label]) for label, tx in table.items()}

    def update(updates: Any, state: Any, params: Any = None, *, batch: Any = None) -> Any:
        pairs = {
            label: tx.update(None, state[label], params[label], batch=batch)
            for label, tx in table.items()
        }
        return {k: v[0] for k, v in pairs.items()}, {k: v[1] for k, v in pairs.items()}

    return optax.GradientTransformationExtraArgs(init, update)


def compare(p: zoo.Problem) -> None:
    devices = Devices()

    def build(axis_name: Any = None) -> Any:
        return side_by_side(transformations(p, axis_name))

    params = dict.fromkeys(transformations(p), p.params)
    start = jax.tree.map(jnp.copy, (params, build().init(params)))
    want, memory = devices.one(build, start, (p.x, p.y))
    for way in (devices.pmap, devices.shard_map, devices.sharded_jit):
        got, state = way(build, start, (p.x, p.y))
        for label, now in memory.items():
            report = now.report
            assert (
                not report.skipped and report.sample_weight_max - report.sample_weight_min > 1e-3
            ), label
            error = distance((got[label], state[label].base), (want[label], now.base))
            close = jax.tree.map(
                lambda a, b: bool(np.allclose(a, b, rtol=1e-5, atol=1e-6)),
                state[label].report,
                report,
            )
            same = all(jax.tree.leaves(close))
            verdict = "equal" if error < 1e-12 and same else f"differ by {error:.1e}, {close}"
            print(f"{way.__name__}, {label}: {verdict}")


def refuse_gram(p: zoo.Problem) -> None:
    """The dense form of `Exact` needs all samples on one device."""
    devices = Devices()
    tx = implicit(SGD, p.net, LOSS, weighting="exact", axis_name="data")
    try:
        devices.shard_map(lambda axis_name: tx, (p.params, tx.init(p.params)), (p.x, p.y))
    except ValueError as error:
        assert "needs all samples on one device" in str(error)
        assert "form='matrix_free'" in str(error)
        print("gram: refused")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    # Gradients of tiny layers are bounded too.
    gradient_bounds.LEAST_SAVING = 0
    jax.config.update("jax_disable_most_optimizations", True)  # all runs a few times only
    p = zoo.problem("tiny", batch=2 * DEVICES)
    compare(p)
    refuse_gram(p)


if __name__ == "__main__":
    main()
