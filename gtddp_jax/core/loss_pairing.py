"""Checks that a loss compares each sample's outputs with the targets of the same sample.

With outputs [B, 1] and targets [B], `outputs - targets` is a table of all pairs of samples. Its sum
over the last axis is one number per sample, but a wrong one. So the loss is traced with more
targets than outputs. Usually these shapes are an error. If they are not, the trace tells why:

| in the trace, for n outputs and m targets                        | the loss is |
|------------------------------------------------------------------|-------------|
| outputs [n, 1] and targets [1, m] meet element by element        | refused     |
| the same, and the loss itself gives both arrays all axes         | accepted    |
| a matrix product of outputs and targets: in-batch negatives      | accepted    |
| targets that are reduced over the batch, or not used             | accepted    |
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from gtddp_jax.core.captured_arrays import captured_arrays
from gtddp_jax.core.jaxprs import (
    NON_ELEMENTWISE,
    ContainedProgram,
    called_program,
    interpret_jaxpr,
)
from gtddp_jax.core.outputs import is_differentiable_leaf
from gtddp_jax.core.types import Batch, Loss, Outputs


class _Origin(NamedTuple):
    """What a value is computed from.

    Attributes:
        outputs: whether it depends on outputs.
        targets: whether it depends on targets.
        repeated: the axes along which a smaller array has been repeated.
        gained_axes: whether an array has been repeated along an axis that it did not have, in one
            operation; where the loss itself gives an array its axes, they have size 1 at first.
    """

    outputs: bool = False
    targets: bool = False
    repeated: frozenset[int] = frozenset()
    gained_axes: bool = False


def check_captured_pairing(per_sample: Callable[[Any], Any], outputs: Outputs) -> None:
    """The same check for a function of the outputs that has captured the targets.

    Args:
        per_sample: maps outputs to losses. Arrays in its closure are taken for targets.
        outputs: what the model returned.
    """
    captured = captured_arrays(per_sample)
    if captured is not None:
        check_loss_pairing(
            lambda outputs, arrays: captured.with_arrays(arrays)(outputs), outputs, captured.arrays
        )


def check_loss_pairing(loss: Loss, outputs: Outputs, targets: Batch) -> None:
    """Raises if a loss broadcasts the targets against the outputs, element by element.

    Args:
        loss: `loss(outputs, targets) -> [B]`.
        outputs: what the model returned; every floating-point leaf is [B, ...].
        targets: a tree; leaves without B rows are passed as they are.

    Raises:
        ValueError: it does, and lets NumPy's rules add the axes.
    """
    output_leaves, output_structure = jax.tree.flatten(outputs)
    target_leaves, target_structure = jax.tree.flatten(targets)
    batch = next(jnp.shape(leaf)[0] for leaf in output_leaves if is_differentiable_leaf(leaf))
    dims = {dim for leaf in output_leaves + target_leaves for dim in jnp.shape(leaf)}
    rows = max(batch, 2)  # a single row can be broadcast against any number
    target_rows = next(size for size in range(rows + 1, rows + len(dims) + 2) if size not in dims)
    # Only the leaves with a row per sample are resized; class weights, say, stay as they are.
    resized_outputs = _per_sample_positions(output_leaves, batch)
    resized_targets = _per_sample_positions(target_leaves, batch)

    def loss_of(new_outputs: list[Any], new_targets: list[Any]) -> jax.Array:
        return loss(
            jax.tree.unflatten(
                output_structure, _replaced(output_leaves, resized_outputs, new_outputs)
            ),
            jax.tree.unflatten(
                target_structure, _replaced(target_leaves, resized_targets, new_targets)
            ),
        )

    arguments = (
        [_with_rows(output_leaves[i], rows) for i in resized_outputs],
        [_with_rows(target_leaves[i], target_rows) for i in resized_targets],
    )
    try:
        closed = jax.make_jaxpr(loss_of)(*arguments)
    except Exception:  # shapes that do not fit raise whatever the loss raises
        return
    origins = [_Origin(outputs=True)] * len(resized_outputs)
    origins += [_Origin(targets=True)] * len(resized_targets)
    finder = _BroadcastFinder(rows, target_rows)
    finder.follow(ContainedProgram(closed.jaxpr, closed.consts), origins)
    # `jnp.where` adds axes in any case, so rank promotion cannot tell what is meant there.
    if finder.found is None or (not finder.gained_axes and _has_explicit_axes(loss_of, arguments)):
        return
    output_shapes, target_shapes = (
        ", ".join(str(tuple(jnp.shape(leaves[i]))) for i in positions)
        for leaves, positions in (
            (output_leaves, resized_outputs),
            (target_leaves, resized_targets),
        )
    )
    raise ValueError(
        "loss(outputs, targets) broadcasts outputs against targets, element by element: it "
        f"accepts {target_rows} targets for {rows} outputs and compares all pairs, an array "
        f"{finder.found}. Outputs have shape {output_shapes} and targets {target_shapes}. Give "
        "both one shape, for example outputs[:, 0] or targets[:, None]. If all pairs are meant, "
        "write all axes, outputs[:, None] - targets[None, :]; then the whole loss must work under "
        'jax.numpy_rank_promotion("raise").'
    )


def _per_sample_positions(leaves: Sequence[Any], batch: int) -> list[int]:
    """Positions of the leaves with a row per sample."""
    return [i for i, leaf in enumerate(leaves) if jnp.shape(leaf)[:1] == (batch,)]


def _with_rows(leaf: Any, rows: int) -> jax.ShapeDtypeStruct:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jax.ShapeDtypeStruct((rows, *jnp.shape(leaf)[1:]), dtype)


def _replaced(leaves: Sequence[Any], positions: Sequence[int], new: Sequence[Any]) -> list[Any]:
    """The leaves with those at some positions replaced."""
    result = list(leaves)
    for position, leaf in zip(positions, new, strict=True):
        result[position] = leaf
    return result


def _has_explicit_axes(loss_of: Callable[..., Any], arguments: Sequence[Any]) -> bool:
    """Whether a loss gives arrays all their axes itself, so that a table of pairs is intended."""
    try:
        with jax.numpy_rank_promotion("raise"):
            jax.make_jaxpr(loss_of)(*arguments)
    except ValueError:
        return False
    return True


class _BroadcastFinder:
    """Looks for an operation in which outputs and targets are repeated along each other's samples.

    Args:
        rows: the number of outputs.
        target_rows: the number of targets, different from every other dimension.

    Attributes:
        found: the shape of the table that it makes; None if there is no such operation.
        gained_axes: whether it has given one of them an axis.
    """

    def __init__(self, rows: int, target_rows: int) -> None:
        self._rows, self._target_rows = rows, target_rows
        self.found: tuple[int, ...] | None = None
        self.gained_axes: bool = False

    def follow(self, program: ContainedProgram, inputs: Sequence[_Origin]) -> list[_Origin]:
        """Follows the origins through a program; returns those of its outputs."""
        return interpret_jaxpr(
            program,
            [_Origin()] * len(program.jaxpr.constvars),
            inputs,
            literal_value=lambda literal: _Origin(),
            evaluate=self._evaluate,
        )

    def _evaluate(self, equation: core.JaxprEqn, inputs: list[_Origin]) -> Sequence[_Origin]:
        program = called_program(equation)
        # The carry of a loop changes its origin, so loops count as unknown operations.
        if program is not None and equation.primitive.name not in ("scan", "while"):
            return self.follow(program, inputs)
        outputs, targets = (any(flags) for flags in list(zip(*inputs, strict=True))[:2] or ((), ()))
        results: list[Any] = [variable.aval for variable in equation.outvars]
        shape = getattr(results[0], "shape", ()) if results else ()
        operands = [
            self._repeated_in(equation, variable.aval, origin, shape)
            for variable, origin in zip(equation.invars, inputs, strict=True)
        ]
        if any(operand is None for operand in operands):
            return [_Origin(outputs, targets)] * len(results)
        known = [operand for operand in operands if operand is not None]
        gained_axes = any(operand.gained_axes for operand in known)
        if any(self._is_table(shape, a, b) for a in known for b in known):
            self.found = tuple(shape)
            self.gained_axes |= gained_axes
        everywhere = frozenset(range(len(shape)))
        repeated = everywhere.intersection(*(operand.repeated for operand in known))
        return [_Origin(outputs, targets, repeated, gained_axes)] * len(results)

    def _repeated_in(
        self, equation: core.JaxprEqn, operand: Any, origin: _Origin, shape: Sequence[int]
    ) -> _Origin | None:
        """An operand's origin in terms of the axes of the result; None if these do not match."""
        axes: Sequence[int] = range(len(shape))
        if equation.primitive.name == "broadcast_in_dim":
            axes = [int(axis) for axis in equation.params["broadcast_dimensions"]]
        elif NON_ELEMENTWISE.fullmatch(equation.primitive.name):
            return None
        sizes = getattr(operand, "shape", ())
        if not sizes:
            return origin._replace(repeated=frozenset(range(len(shape))))
        if len(sizes) != len(axes) or any(
            size not in (1, shape[axis]) for size, axis in zip(sizes, axes, strict=True)
        ):
            return None
        # What the operand does not have, or has once only, is repeated.
        own = {axis for size, axis in zip(sizes, axes, strict=True) if size == shape[axis]}
        earlier = {axes[axis] for axis in origin.repeated}
        added = {axis for axis in range(len(shape)) if axis not in own and shape[axis] > 1}
        gained = any(axis not in axes for axis in added)
        return origin._replace(
            repeated=frozenset(earlier | added), gained_axes=origin.gained_axes or gained
        )

    def _is_table(self, shape: Sequence[int], first: _Origin, second: _Origin) -> bool:
        """Whether outputs are repeated along the targets' samples, and targets along theirs."""
        if not first.outputs or second.outputs or not second.targets:
            return False
        along_targets, along_outputs = (
            {axis for axis in one.repeated - other.repeated if shape[axis] == size}
            for one, other, size in (
                (first, second, self._target_rows),
                (second, first, self._rows),
            )
        )
        return bool(along_targets and along_outputs)
