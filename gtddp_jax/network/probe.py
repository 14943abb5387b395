"""Checks of shapes and of the independence of samples, before anything is trained.

The games treat samples as separate; a layer that mixes them would make every sample weight wrong
without any error. Shapes are propagated through the whole network without computing anything. Then
each layer that is not known to keep samples apart is evaluated on two random samples together, and
on the first of them alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.core.types import InputsLike, PlayerTrees
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.naming import layer_label
from gtddp_jax.network.program import (
    ConcatenateOp,
    FunctionOp,
    MergeOp,
    PlayerOp,
    Stage,
    StageOp,
)
from gtddp_jax.network.sample_gradients.layer_rules import GENERIC, layer_kind

TOLERANCE = 1e-3
"""Relative and absolute difference up to which two outputs count as equal."""
ROUNDINGS = 8
"""The same in units of the coarsest dtype's rounding, where that is more."""


def describe_op(op: StageOp) -> str:
    """The name of an operation in messages."""
    if isinstance(op, PlayerOp):
        return f"player {op.name!r} ({layer_label(op.module)})"
    return f"function {op.label!r}" if isinstance(op, FunctionOp) else op.label


def probe_input(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> jax.Array:
    """A random array [2, ...] of the given feature shape; integers are drawn from {0, 1}."""
    generator = np.random.default_rng(seed)
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.asarray(generator.normal(size=(2, *shape)), dtype)
    # 0 and 1 are valid token and class numbers of any model.
    return jnp.asarray(generator.integers(0, 2, size=(2, *shape)), dtype)


class Probe(NamedTuple):
    """The outputs of one operation for two samples and for one.

    Attributes:
        both: the outputs [2, ...] for two samples.
        alone: the outputs [1, ...] for the first of them.
        tolerance: how far they may differ, by the dtypes of inputs and outputs.
    """

    both: jax.Array
    alone: jax.Array
    tolerance: jax.Array


def _run_on_two_and_one(
    op: StageOp, params: PlayerTrees, op_inputs: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """One operation on two samples and on the first of them.

    Raises:
        NetworkError: the shapes show that samples are mixed, or cannot be added.
    """
    if isinstance(op, MergeOp):
        _check_shapes(op, [x.shape[1:] for x in op_inputs])
    # The first sample must give the same output with and without a second one beside it.
    both = op(params, *op_inputs)
    alone = op(params, *(x[:1] for x in op_inputs))
    # A sum over all axes, a flattened batch, or something that is no array at all.
    if not isinstance(both, jax.Array) or both.ndim < 1 or both.shape[0] != 2:
        raise NetworkError(
            f"{describe_op(op)}: an input of shape {op_inputs[0].shape} (two samples) gave "
            f"{getattr(both, 'shape', type(both).__name__)}; an array whose leading axis is the "
            "sample axis is needed."
        )
    # For example features that are as many as samples.
    if alone.shape[1:] != both.shape[1:]:
        raise NetworkError(
            f"{describe_op(op)}: the shape of a sample depends on the batch size "
            f"({alone.shape} for one sample, {both.shape} for two); samples must be separate."
        )
    return both, alone


def _probe_op(op: StageOp, params: PlayerTrees, op_inputs: Sequence[jax.Array]) -> Probe:
    both, alone = _run_on_two_and_one(op, params, op_inputs)
    # Low precision rounds differently at different batch sizes, which is no mixing of samples.
    dtypes = [x.dtype for x in (*op_inputs, both) if jnp.issubdtype(x.dtype, jnp.floating)]
    roundings = [ROUNDINGS * float(jnp.finfo(dtype).eps) for dtype in dtypes]
    return Probe(both, alone, jnp.float32(max(TOLERANCE, *roundings, 0.0)))


def _check_shapes(op: MergeOp, shapes: list[tuple[int, ...]]) -> None:
    is_joined = isinstance(op, ConcatenateOp)
    has_equal_shapes = len({shape[:-1] if is_joined else shape for shape in shapes}) == 1
    if has_equal_shapes and (all(shapes) or not is_joined):
        return
    listed = " and ".join(str(("B", *shape)) for shape in shapes)
    if is_joined:
        raise NetworkError(
            f"{op.label}: cannot join states of shapes {listed} along the last axis. Branches "
            "must have outputs that differ in their last axis alone."
        )
    hint = (
        "Give the block a shortcut that maps the shape, as in gt.Residual(body, "
        "shortcut=nn.Conv(...) or nn.Dense(...))."
        if op.label.startswith("merge")
        else "Branches must have outputs of one shape, or be merged by concatenation."
        if "Parallel" in op.label
        else "Players of a cooperative block must have outputs of one shape."
    )
    raise NetworkError(f"{op.label}: cannot add states of shapes {listed}. {hint}")


def _check_separate(op: StageOp, probe: Probe) -> None:
    # Precise enough for every dtype; a layer may return complex numbers.
    precise = np.complex128 if jnp.iscomplexobj(probe.both) else np.float64
    beside_another, alone = (np.asarray(x[0], precise) for x in (probe.both, probe.alone))
    tolerance = float(probe.tolerance)
    # NaN in both is a matter of the layer's domain (a logarithm, say), not of mixing.
    if not np.allclose(beside_another, alone, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise NetworkError(
            f"{describe_op(op)}: the output of one sample changes with the other samples of the "
            "batch. Layers must act on samples separately (reduce over axes 1 and up, never over "
            "axis 0)."
        )


def _keeps_samples_apart(op: StageOp, x: jax.ShapeDtypeStruct) -> bool:
    """Whether an operation is known to keep samples apart: a merge, a plain dense layer or conv.

    Skipping them saves time, too: they are the ones that take long to compile.
    """
    if isinstance(op, PlayerOp):
        return layer_kind(op.module, x.shape) != GENERIC
    return isinstance(op, MergeOp)


def check_stages(stages: tuple[Stage, ...], x: InputsLike) -> None:
    """Checks the shapes of newly initialized layers, and by random samples that they are separate.

    Args:
        stages: stages that run, as from `bind_stages`.
        x: an input batch [B, ...], of which the shape and dtype are used.

    Raises:
        NetworkError: shapes do not fit, a layer mixes samples, a module has no parameters.
    """
    # Two samples are the smallest batch in which one can influence another.
    two_samples = jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype)
    doubtful = _find_doubtful_ops(stages, two_samples)

    def probe_all(inputs: list[list[jax.Array]]) -> list[Probe]:
        return [
            _probe_op(op, _fresh_params(op, op_inputs), op_inputs)
            for (op, _), op_inputs in zip(doubtful, inputs, strict=True)
        ]

    # The probes are compared on the host, also when the caller itself is being traced.
    with jax.ensure_compile_time_eval():
        inputs = [
            [probe_input(shape.shape[1:], shape.dtype, seed) for seed, shape in enumerate(shapes)]
            for _, shapes in doubtful
        ]
        # One program for all probes: compiling takes most of the time.
        probes = jax.jit(probe_all)(inputs)
        for (op, _), probe in zip(doubtful, probes, strict=True):
            _check_separate(op, probe)


def _find_doubtful_ops(
    stages: tuple[Stage, ...], two_samples: jax.ShapeDtypeStruct
) -> list[tuple[StageOp, list[jax.ShapeDtypeStruct]]]:
    """The operations that may mix samples, with the shapes of their inputs; checks all shapes."""
    ops = [op for stage in stages for op in stage.ops]

    def inputs_of_ops(x: jax.Array) -> list[list[jax.Array]]:
        values, inputs = {stages[0].inputs[0]: x}, []
        for op in ops:
            op_inputs = [values[source] for source in op.sources]
            inputs.append(op_inputs)
            values[op.target], _ = _run_on_two_and_one(op, _fresh_params(op, op_inputs), op_inputs)
        return inputs

    doubtful: dict[Any, tuple[StageOp, list[jax.ShapeDtypeStruct]]] = {}
    for op, shapes in zip(ops, jax.eval_shape(inputs_of_ops, two_samples), strict=True):
        if not _keeps_samples_apart(op, shapes[0]):
            # One function at one shape (nn.relu, say) is probed once.
            identity = id(op.function) if isinstance(op, FunctionOp) else op.target
            signature = tuple((shape.shape, shape.dtype) for shape in shapes)
            doubtful.setdefault((identity, signature), (op, shapes))
    return list(doubtful.values())


def _fresh_params(op: StageOp, op_inputs: Sequence[jax.Array]) -> PlayerTrees:
    """New parameters of an operation, `{player: tree}`; empty if it is not a player."""
    if not isinstance(op, PlayerOp):
        return {}
    return {op.name: _module_params(op, jax.random.key(0), op_inputs[0])}


def _module_params(op: PlayerOp, key: jax.Array, x: jax.Array) -> Any:
    # State beside the parameters would be lost: a player has parameters only.
    variables = op.module.init(key, x)
    others = sorted(set(variables) - {"params"})
    if others:
        raise NetworkError(
            f"{describe_op(op)} keeps the variable collection(s) {others} beside its parameters; "
            "a player may have the collection 'params' only. nn.BatchNorm is a layer of its own in "
            "gt.Network, not part of a player."
        )
    if not jax.tree.leaves(variables.get("params", {})):
        raise NetworkError(
            f"{describe_op(op)} has no parameters; give it as a function, "
            "lambda x: module.apply({}, x)."
        )
    return variables["params"]
