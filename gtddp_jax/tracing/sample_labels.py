"""Which axes of a traced function run over the samples of its outputs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import PerSample
from gtddp_jax.tracing.axis_labels import Axes, Axis, AxisLabels
from gtddp_jax.tracing.axis_rules import Consumed, output_axes
from gtddp_jax.tracing.traced_program import Atom, TracedEquation, TracedProgram, ValueId


class SampleLabels:
    """The samples of a traced function: the leading axes of its outputs, followed everywhere.

    Args:
        program: the function.
        outputs: the outputs, of which the leading axis runs over the samples.
    """

    def __init__(self, program: TracedProgram, outputs: Sequence[ValueId]) -> None:
        self._labels = AxisLabels()
        self._axes: list[Axes | None] = [None] * len(program.shapes)
        self._program = program
        # Values without an equation: parameters, constants, captured arrays.
        written = {value for equation in program.equations for value in equation.outputs}
        for value, shape in enumerate(program.shapes):
            if value not in written:
                self._axes[value] = self._labels.new_axes(getattr(shape, "shape", ()))
        consumed_by: list[Consumed] = []
        for equation in program.equations:
            consumed: Consumed = []
            inputs = [self._axes_of_atom(atom) for atom in equation.inputs]
            results = output_axes(self._labels, equation.source, inputs, consumed)
            for value, axes in zip(equation.outputs, results, strict=True):
                self._axes[value] = axes
            consumed_by.append(consumed)
        for other in outputs[1:]:
            self._labels.unify(self._axes_of(outputs[0])[0], self._axes_of(other)[0])
        self.labels: Axis = self._labels.resolve(self._axes_of(outputs[0])[0])
        self.coupling_equations: frozenset[int] = frozenset(
            index
            for index, consumed in enumerate(consumed_by)
            if self._mixes_samples(program.equations[index], consumed)
        )

    def _mixes_samples(self, equation: TracedEquation, consumed: Consumed) -> bool:
        """Whether an entry of an output may depend on several samples."""
        axes = [self._labels.resolve(axis) for axis in consumed]
        values = (*equation.outputs, *equation.value_inputs)
        return any(set(axis) & set(self.labels) for axis in axes) or any(
            self._is_repeated(value) for value in values
        )

    def _axes_of(self, value: ValueId) -> Axes:
        axes = self._axes[value]
        assert axes is not None, "values are written before they are read"
        return axes

    def _axes_of_atom(self, atom: Atom) -> Axes:
        if isinstance(atom, int):
            return self._axes_of(atom)
        return self._labels.new_axes(jnp.shape(atom.val))

    def _entries(self, value: ValueId) -> Axis:
        """The resolved labels of a value, one after the other."""
        return self._labels.resolve(sum(self._axes_of(value), ()))

    def _is_repeated(self, value: ValueId) -> bool:
        """Whether samples are compared with each other in a value."""
        found = [label for label in self._entries(value) if label in self.labels]
        return len(found) > len(set(found))

    def has_samples(self, value: ValueId) -> bool:
        """Whether some axis of a value runs over the samples."""
        return any(label in self.labels for label in self._entries(value))

    def is_per_sample(self, value: ValueId) -> bool:
        """Whether a value has, for each sample, entries of its own."""
        found = [label for label in self._entries(value) if label in self.labels]
        return sorted(found) == sorted(self.labels)

    def axis_of(self, value: ValueId) -> int | None:
        """The axis of a value that runs over the samples and nothing else; None without one."""
        axes = self._axes_of(value)
        found = [i for i in range(len(axes)) if self.runs_over_samples(value, i)]
        is_alone = len(found) == 1 and self._labels.resolve(axes[found[0]]) == self.labels
        return found[0] if is_alone else None

    def runs_over_samples(self, value: ValueId, axis: int) -> bool:
        """Whether an axis of a value runs over the samples, or over them and something else."""
        return bool(set(self._labels.resolve(self._axes_of(value)[axis])) & set(self.labels))

    def sum_by_sample(self, value: ValueId, x: jax.Array) -> PerSample:
        """The sums [B] of the entries of each sample.

        Args:
            value: a value for which `is_per_sample` holds.
            x: an array like the value, of which axes without samples may be shorter.
        """
        axes = [self._labels.resolve(axis) for axis in self._axes_of(value)]
        others = [i for i, axis in enumerate(axes) if not set(axis) & set(self.labels)]
        entries: Axis = sum((axis for i, axis in enumerate(axes) if i not in others), ())
        # What is left has its full length, and may merge samples with other axes.
        x = x.sum(others).reshape([self._labels.size(label) for label in entries])
        x = x.sum([i for i, label in enumerate(entries) if label not in self.labels])
        order = [label for label in entries if label in self.labels]
        return x.transpose([order.index(label) for label in self.labels]).reshape(-1)

    def scale_samples(self, value: ValueId, x: jax.Array, w: PerSample) -> jax.Array:
        """`x`, an array like the value, times one weight [B] per sample, in the dtype of `x`."""
        entries = self._entries(value)
        sizes = [self._labels.size(label) for label in entries]
        order = sorted(range(len(self.labels)), key=lambda i: entries.index(self.labels[i]))
        weights = w.reshape([self._labels.size(label) for label in self.labels]).transpose(order)
        shape = [self._labels.size(label) if label in self.labels else 1 for label in entries]
        precise = jnp.promote_types(x.dtype, w.dtype)
        scaled = x.reshape(sizes).astype(precise) * weights.reshape(shape)
        return scaled.astype(x.dtype).reshape(x.shape)
