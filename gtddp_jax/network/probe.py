"""Checks on shapes and on the independence of samples, before anything is trained.

DESIGN §2 treats samples as separate; a layer that mixes them would make every weight wrong without
a word. Shapes are followed through the whole network without computing anything. Then each layer
that is not known to keep samples apart is evaluated on two random samples and on the first alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.core.types import InputsLike
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


def _both_and_alone(op: Op, params: Params, xs: Sequence[jax.Array]) -> tuple[Any, Any]:
    """One operation on two samples and on the first; raises where the shapes show what is wrong."""
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
    return both, alone


def _probe(op: Op, params: Params, xs: Sequence[jax.Array]) -> Probe:
    both, alone = _both_and_alone(op, params, xs)
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


def _keeps_samples_apart(op: Op, x: jax.ShapeDtypeStruct) -> bool:
    """Whether that is known of the operation without looking: sums, plain dense layers and convs.

    They are also the ones that would take long to compile.
    """
    from gtddp_jax.players.rules import GENERIC, kind

    if isinstance(op, Act):
        return kind(op.module, x.shape) != GENERIC
    return isinstance(op, Add)


def check_stages(stages: tuple[Stage, ...], x: InputsLike) -> None:
    """Checks the shapes of freshly made layers, and by random samples that they are separate.

    Raises:
        NetworkError: shapes do not fit, a layer mixes samples, a module has no parameters.
    """
    ops = [op for stage in stages for op in stage.ops]

    def follow(x: jax.Array) -> list[list[jax.Array]]:
        values, inputs = {stages[0].inputs[0]: x}, []
        for op in ops:
            xs = [values[v] for v in op.sources]
            inputs.append(xs)
            values[op.target], _ = _both_and_alone(op, _params(op, xs), xs)
        return inputs

    two = jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype)
    doubtful: dict[Any, tuple[Op, list[jax.ShapeDtypeStruct]]] = {}
    for op, shapes in zip(ops, jax.eval_shape(follow, two), strict=True):
        if not _keeps_samples_apart(op, shapes[0]):
            what = id(op.function) if isinstance(op, Map) else op.target  # nn.relu once a shape
            given = tuple((v.shape, v.dtype) for v in shapes)
            doubtful.setdefault((what, given), (op, shapes))

    def evaluate(inputs: list[list[jax.Array]]) -> list[Probe]:
        each = zip((op for op, _ in doubtful.values()), inputs, strict=True)
        return [_probe(op, _params(op, xs), xs) for op, xs in each]

    with jax.ensure_compile_time_eval():  # also where the caller is being traced
        inputs = [
            [probe_input(v.shape[1:], v.dtype, seed) for seed, v in enumerate(shapes)]
            for _, shapes in doubtful.values()
        ]
        probes = jax.jit(evaluate)(inputs)
        for (op, _), probe in zip(doubtful.values(), probes, strict=True):
            _check_separate(op, probe)


def _params(op: Op, xs: Sequence[jax.Array]) -> Params:
    """Fresh parameters of an operation, `{player: tree}`; none if it is not a player."""
    key = jax.random.key(0)
    return {op.name: _module_params(op, key, xs[0])} if isinstance(op, Act) else {}


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
