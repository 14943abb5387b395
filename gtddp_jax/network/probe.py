"""Checks on shapes and on the independence of samples, before anything is trained.

DESIGN §2 treats samples as separate; a layer that mixes them would make every weight wrong without
a word. Each layer is evaluated on a random batch of two samples and on the first sample alone.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.naming import layer_label
from gtddp_jax.network.program import Act, Add, Map, Op, Params, Stage

TOLERANCE = 1e-3
ROUNDINGS = 8
"""How many roundings in the coarsest dtype at hand are taken for equal, where that is more."""


def describe(op: Op) -> str:
    """How messages name an operation."""
    if isinstance(op, Act):
        return f"player {op.name!r} ({layer_label(op.module)})"
    return f"function {op.label!r}" if isinstance(op, Map) else op.label


def probe_input(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> jax.Array:
    """A random array [2, ...] of the given feature shape; integers are drawn from {0, 1}."""
    rng = np.random.default_rng(seed)
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(rng.normal(size=(2, *shape)), dtype)
    return jnp.asarray(rng.integers(0, 2, size=(2, *shape)), dtype)


class Probe(NamedTuple):
    """One operation seen with two samples and with one.

    Attributes:
        both: its values [2, ...] for two samples.
        alone: its values [1, ...] for the first of them.
        tolerance: how far they may differ, by the dtypes of inputs and outputs.
    """

    both: jax.Array
    alone: jax.Array
    tolerance: jax.Array


def _evaluate(op: Op, params: Params, xs: list[jax.Array]) -> Probe:
    """Evaluates one operation; raises if its shapes show that it cannot be part of a network."""
    if isinstance(op, Add):
        _check_shapes(op, [x.shape[1:] for x in xs])
    both = op(params, *xs)
    alone = op(params, *(x[:1] for x in xs))
    if not isinstance(both, jax.Array) or both.ndim < 1 or both.shape[0] != 2:
        raise NetworkError(
            f"{describe(op)}: an input of shape {xs[0].shape} (two samples) gave "
            f"{getattr(both, 'shape', type(both).__name__)}; an array whose leading axis is the "
            "sample axis is needed."
        )
    if alone.shape[1:] != both.shape[1:]:
        raise NetworkError(
            f"{describe(op)}: the shape of a sample depends on the batch size "
            f"({alone.shape} for one sample, {both.shape} for two); samples must be separate."
        )
    dtypes = [v.dtype for v in (*xs, both) if jnp.issubdtype(v.dtype, jnp.floating)]
    roundings = [ROUNDINGS * float(jnp.finfo(dtype).eps) for dtype in dtypes]
    return Probe(both, alone, jnp.float32(max(TOLERANCE, *roundings, 0.0)))


def _check_shapes(op: Add, shapes: list[tuple[int, ...]]) -> None:
    if len(set(shapes)) == 1:
        return
    hint = (
        "Give the block a shortcut that maps the shape, as in gt.Residual(body, "
        "shortcut=nn.Conv(...) or nn.Dense(...))."
        if op.label.startswith("merge")
        else "Players of a cooperative block must have outputs of one shape."
    )
    listed = " and ".join(str(("B", *shape)) for shape in shapes)
    raise NetworkError(f"{op.label}: cannot add states of shapes {listed}. {hint}")


def _check_separate(op: Op, probe: Probe) -> None:
    first, single = (np.asarray(v[0], np.float64) for v in (probe.both, probe.alone))
    bound = float(probe.tolerance)
    if not np.allclose(first, single, rtol=bound, atol=bound, equal_nan=True):
        raise NetworkError(
            f"{describe(op)}: the output of one sample changes with the other samples of the "
            "batch. Layers must act on samples separately (reduce over axes 1 and up, never over "
            "axis 0)."
        )


def check_stages(
    stages: tuple[Stage, ...], keys: Mapping[str, jax.Array], x: jax.ShapeDtypeStruct | jax.Array
) -> None:
    """Runs two random samples of the shape of `x` [B, ...] through freshly made layers.

    Raises:
        NetworkError: shapes do not fit, a layer mixes samples, a module has no parameters.
    """
    ops = [op for stage in stages for op in stage.ops]

    @jax.jit
    def run(keys: Mapping[str, jax.Array], x: jax.Array) -> list[Probe]:
        values, params, probes = {stages[0].inputs[0]: x}, {}, []
        for op in ops:
            xs = [values[v] for v in op.sources]
            if isinstance(op, Act):
                params[op.name] = _module_params(op, keys[op.name], xs[0])
            probes.append(_evaluate(op, params, xs))
            values[op.target] = probes[-1].both
        return probes

    for op, probe in zip(ops, run(keys, probe_input(x.shape[1:], x.dtype)), strict=True):
        _check_separate(op, probe)


def _module_params(op: Act, key: jax.Array, x: jax.Array) -> Any:
    variables = op.module.init(key, x)
    others = sorted(set(variables) - {"params"})
    if others:
        raise NetworkError(
            f"{describe(op)} keeps the variable collection(s) {others} beside its parameters; "
            "a player may have the collection 'params' only. nn.BatchNorm is a layer of its own in "
            "gt.Network, not part of a player."
        )
    if not jax.tree.leaves(variables.get("params", {})):
        raise NetworkError(
            f"{describe(op)} has no parameters; give it as a function, "
            "lambda x: module.apply({}, x)."
        )
    return variables["params"]
