"""How the primitives of JAX map the axes of their inputs to the axes of their outputs.

A rule returns the axes of the outputs and notes the axes that it *consumes*: those along which
entries are summed, selected or moved, so that an entry of an output depends on other entries too.
An operation without a rule consumes all of its axes.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from jax.extend import core

from gtddp_jax.core.jaxprs import (
    ContainedProgram,
    as_program,
    called_program,
    contained_programs,
    interpret_jaxpr,
)
from gtddp_jax.tracing.axis_labels import Axes, Axis, AxisLabels

ELEMENTWISE = re.compile(
    r"abs|acosh?|add|add_any|and|asinh?|atan2?|atanh|bessel_.*|bitcast_convert_type|cbrt|ceil|clamp|"
    r"complex|conj|convert_element_type|copy|copy_p|cosh?|digamma|div|eq|erf|erf_inv|erfc|exp|exp2|"
    r"expm1|floor|ge|gt|igamma.*|imag|integer_pow|is_finite|le|lgamma|log|log1p|logistic|lt|max|min|"
    r"mesh_cast|mul|ne|neg|nextafter|not|optimization_barrier|or|pcast|polygamma|population_count|pow|"
    r"pvary|real|reduce_precision|rem|reshard|round|rsqrt|select_n|sharding_constraint|shift_.*|sign|"
    r"sinh?|sqrt|square|stop_gradient|sub|tanh?|xor|zeta"
)
"""Names of the primitives that compute entry by entry."""

REDUCTIONS = re.compile(r"reduce_(sum|max|min|prod|and|or|xor)|argmax|argmin")
RUNNING = re.compile(r"cum(sum|max|min|prod|logsumexp)")
WINDOWS = re.compile(r"reduce_window(_sum|_max|_min)?")

Consumed: TypeAlias = list[Axis]
"""Collects the axes that operations consume."""


def output_axes(
    labels: AxisLabels, equation: core.JaxprEqn, inputs: Sequence[Axes], consumed: Consumed
) -> list[Axes]:
    """The axes of the outputs of an equation.

    Args:
        labels: the labels, among which new ones are made and equal ones are unified.
        equation: the equation.
        inputs: the axes of its inputs, literals included.
        consumed: takes the axes that the equation consumes.
    """
    return _Operation(labels, equation, list(inputs), consumed).output_axes()


def program_axes(
    labels: AxisLabels, program: ContainedProgram, inputs: Sequence[Axes], consumed: Consumed
) -> list[Axes]:
    """The axes of the outputs of a program; see `output_axes`."""
    constants = [labels.new_axes(_shape(variable)) for variable in program.jaxpr.constvars]
    return interpret_jaxpr(
        program,
        constants,
        inputs,
        literal_value=lambda literal: labels.new_axes(_shape(literal)),
        evaluate=lambda equation, axes: output_axes(labels, equation, axes, consumed),
    )


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(getattr(variable.aval, "shape", ()))


class _Operation:
    """One equation and the axes of its inputs."""

    def __init__(
        self,
        labels: AxisLabels,
        equation: core.JaxprEqn,
        inputs: list[Axes],
        consumed: Consumed,
    ) -> None:
        self._labels, self._equation, self._consumed = labels, equation, consumed
        self._inputs = inputs
        self._params: dict[str, Any] = equation.params
        self._shapes = [_shape(variable) for variable in equation.invars]
        self._output_shapes = [_shape(variable) for variable in equation.outvars]

    def output_axes(self) -> list[Axes]:
        name = self._equation.primitive.name
        if ELEMENTWISE.fullmatch(name):
            return self._elementwise()
        if REDUCTIONS.fullmatch(name):
            return [self._reduce(self._params["axes"])]
        if RUNNING.fullmatch(name):
            return [self._with_new({self._params["axis"]})]
        if WINDOWS.fullmatch(name):
            return [self._window()] if len(self._output_shapes) == 1 else self._unknown()
        rule = RULES.get(name)
        if rule is not None:
            return rule(self)
        program = called_program(self._equation)
        if program is not None and name not in ("shard_map", "pmap"):
            return program_axes(self._labels, program, self._inputs, self._consumed)
        return self._unknown()

    # What several rules share.

    def _unknown(self) -> list[Axes]:
        for axes in self._inputs:
            self._consumed.extend(axes)
        return [self._labels.new_axes(shape) for shape in self._output_shapes]

    def _pair(self, first: Axis, second: Axis) -> None:
        """Unifies two axes; axes that cannot be paired entry by entry are consumed."""
        if not self._labels.unify(first, second):
            self._consumed += [first, second]

    def _pair_all(self, first: Axes, second: Axes) -> None:
        for one, other in zip(first, second, strict=True):
            self._pair(one, other)

    def _with_new(self, changed: set[int]) -> Axes:
        """The axes of the first input, of which `changed` are consumed and made anew."""
        axes = self._inputs[0]
        self._consumed += [axes[position] for position in changed]
        return tuple(
            self._labels.new_axis(size) if position in changed else axes[position]
            for position, size in enumerate(self._output_shapes[0])
        )

    # The rules.

    def _elementwise(self) -> list[Axes]:
        outputs = []
        for position, shape in enumerate(self._output_shapes):
            # An operation with several results, such as a barrier, passes each input on.
            several = len(self._output_shapes) > 1
            inputs = [self._inputs[position]] if several else self._inputs
            # Numbers beside arrays have no axes.
            arrays = [axes for axes in inputs if len(axes) == len(shape)]
            result = []
            for axis, size in enumerate(shape):
                # An axis of length 1 may be broadcast.
                whole = [axes[axis] for axes in arrays if axes[axis] or size == 1]
                for other in whole[1:]:
                    self._pair(whole[0], other)
                result.append(whole[0] if whole else self._labels.new_axis(size))
            outputs.append(tuple(result))
        return outputs

    def _reduce(self, reduced: Sequence[int]) -> Axes:
        axes = self._inputs[0]
        self._consumed += [axes[position] for position in reduced]
        return tuple(axis for position, axis in enumerate(axes) if position not in reduced)

    def _window(self) -> Axes:
        rank = len(self._output_shapes[0])
        ones, none = (1,) * rank, ((0, 0),) * rank
        options = zip(
            self._params["window_dimensions"],
            self._params["window_strides"],
            self._params["padding"],
            self._params.get("base_dilation") or ones,
            none,
            strict=True,
        )
        moved = {
            axis
            for axis, (window, stride, padding, dilation, nothing) in enumerate(options)
            if (window, stride, dilation) != (1, 1, 1) or tuple(padding) != nothing
        }
        return self._with_new(moved)

    def _broadcast(self) -> list[Axes]:
        (shape,), axes = self._output_shapes, self._inputs[0]
        result = [self._labels.new_axis(size) for size in shape]
        for source, target in enumerate(self._params["broadcast_dimensions"]):
            if self._shapes[0][source] == shape[target]:
                result[target] = axes[source]
        return [tuple(result)]

    def _reshape(self) -> list[Axes]:
        axes = self._labels.new_axes(self._output_shapes[0])
        order = self._params.get("dimensions") or range(len(self._inputs[0]))
        before: Axis = sum((self._inputs[0][position] for position in order), ())
        after: Axis = sum(axes, ())
        self._pair(before, after)
        return [axes]

    def _squeeze(self) -> list[Axes]:
        removed = self._params["dimensions"]
        return [tuple(a for position, a in enumerate(self._inputs[0]) if position not in removed)]

    def _expand(self) -> list[Axes]:
        axes = list(self._inputs[0])
        for position in sorted(self._params["dimensions"]):
            axes.insert(position, ())
        return [tuple(axes)]

    def _transpose(self) -> list[Axes]:
        return [tuple(self._inputs[0][position] for position in self._params["permutation"])]

    def _sort(self) -> list[Axes]:
        dimension = self._params["dimension"]
        first = self._inputs[0]
        for other in self._inputs[1:]:
            self._pair_all(first, other)
        sorted_axes = self._with_new({dimension})
        return [sorted_axes for _ in self._output_shapes]

    def _reverse(self) -> list[Axes]:
        return [self._with_new(set(self._params["dimensions"]))]

    def _top_k(self) -> list[Axes]:
        axis = self._params.get("axis", len(self._shapes[0]) - 1)
        axes = self._with_new({axis})
        return [axes for _ in self._output_shapes]

    def _concatenate(self) -> list[Axes]:
        along, first = self._params["dimension"], self._inputs[0]
        for other in self._inputs[1:]:
            self._consumed.append(other[along])
            for position, axis in enumerate(other):
                if position != along:
                    self._pair(first[position], axis)
        return [self._with_new({along})]

    def _split(self) -> list[Axes]:
        along = self._params["axis"]
        axes = self._inputs[0]
        self._consumed.append(axes[along])
        return [
            tuple(
                self._labels.new_axis(shape[along]) if position == along else axis
                for position, axis in enumerate(axes)
            )
            for shape in self._output_shapes
        ]

    def _pad(self) -> list[Axes]:
        config = self._params["padding_config"]
        return [self._with_new({i for i, amounts in enumerate(config) if any(amounts)})]

    def _slice(self) -> list[Axes]:
        """A slice, with constant or dynamic starts: axes of unchanged length are kept."""
        pairs = zip(self._shapes[0], self._output_shapes[0], strict=True)
        return [self._with_new({i for i, (before, after) in enumerate(pairs) if before != after})]

    def _update_slice(self) -> list[Axes]:
        operand, update = self._inputs[:2]
        changed = set()
        for position, (one, other) in enumerate(zip(operand, update, strict=True)):
            if self._shapes[0][position] == self._shapes[1][position]:
                self._pair(one, other)
            else:
                self._consumed.append(other)
                changed.add(position)
        return [self._with_new(changed)]

    def _gather(self) -> list[Axes]:
        numbers, sizes = self._params["dimension_numbers"], self._params["slice_sizes"]
        operand, indices = self._inputs
        # The last axis of the indices holds one number per axis of the operand.
        indices, rank = indices[:-1], len(self._output_shapes[0])
        batching = tuple(numbers.operand_batching_dims)
        pairs = zip(batching, numbers.start_indices_batching_dims, strict=True)
        for of_operand, of_indices in pairs:
            self._pair(operand[of_operand], indices[of_indices])
        kept = [
            position
            for position in range(len(operand))
            if position not in numbers.collapsed_slice_dims and position not in batching
        ]
        self._consumed += [operand[position] for position in numbers.collapsed_slice_dims]
        result: list[Axis] = [()] * rank
        for target, source in zip(numbers.offset_dims, kept, strict=True):
            if sizes[source] == self._shapes[0][source]:
                result[target] = operand[source]
            else:
                self._consumed.append(operand[source])
                result[target] = self._labels.new_axis(sizes[source])
        others = (position for position in range(rank) if position not in numbers.offset_dims)
        for target, axis in zip(others, indices, strict=True):
            result[target] = axis
        return [tuple(result)]

    def _product(self) -> list[Axes]:
        contracted, batch = self._params["dimension_numbers"]
        left, right = self._inputs
        for one, other in zip(*batch, strict=True):
            self._pair(left[one], right[other])
        for one, other in zip(*contracted, strict=True):
            self._pair(left[one], right[other])
            self._consumed += [left[one], right[other]]
        result = [left[position] for position in batch[0]]
        for axes, used in zip((left, right), zip(contracted, batch, strict=True), strict=True):
            paired = {*used[0], *used[1]}
            result += [axis for position, axis in enumerate(axes) if position not in paired]
        return [tuple(result)]

    def _convolution(self) -> list[Axes]:
        numbers, (left, right) = self._params["dimension_numbers"], self._inputs
        if self._params["batch_group_count"] != 1:
            return self._unknown()
        sample, feature, *positions = numbers.lhs_spec
        out_feature, in_feature, *offsets = numbers.rhs_spec
        if self._params["feature_group_count"] == 1:
            self._pair(left[feature], right[in_feature])
        self._consumed += [left[feature], right[in_feature]]
        self._consumed += [left[position] for position in positions]
        self._consumed += [right[offset] for offset in offsets]
        result = [self._labels.new_axis(size) for size in self._output_shapes[0]]
        result[numbers.out_spec[0]] = left[sample]
        if self._params["feature_group_count"] == 1:
            result[numbers.out_spec[1]] = right[out_feature]
        else:
            self._consumed.append(right[out_feature])
        return [tuple(result)]

    def _conditional(self) -> list[Axes]:
        results = [
            program_axes(self._labels, program, self._inputs[1:], self._consumed)
            for program in contained_programs(self._equation)
        ]
        for other in results[1:]:
            for first_axes, other_axes in zip(results[0], other, strict=True):
                self._pair_all(first_axes, other_axes)
        return results[0]

    def _scan(self) -> list[Axes]:
        first = self._params["num_consts"]
        last = first + self._params["num_carry"]
        (body,) = contained_programs(self._equation)
        slices = [axes[1:] for axes in self._inputs[last:]]
        results = program_axes(self._labels, body, [*self._inputs[:last], *slices], self._consumed)
        carries = last - first
        for before, after in zip(self._inputs[first:last], results[:carries], strict=True):
            self._pair_all(before, after)
        # One more axis for the iterations, along which the carry passes from entry to entry.
        self._consumed += [axes[0] for axes in self._inputs[last:]]
        stacked = [
            (self._labels.new_axis(shape[0]), *axes)
            for shape, axes in zip(self._output_shapes[carries:], results[carries:], strict=True)
        ]
        return [*results[:carries], *stacked]

    def _while(self) -> list[Axes]:
        condition, body = (as_program(self._params[name]) for name in ("cond_jaxpr", "body_jaxpr"))
        assert condition is not None and body is not None, "a while has a condition and a body"
        first = self._params["cond_nconsts"]
        last = first + self._params["body_nconsts"]
        carry = self._inputs[last:]
        program_axes(self._labels, condition, [*self._inputs[:first], *carry], self._consumed)
        results = program_axes(
            self._labels, body, [*self._inputs[first:last], *carry], self._consumed
        )
        for before, after in zip(carry, results, strict=True):
            self._pair_all(before, after)
        return results


Rule: TypeAlias = Callable[[_Operation], list[Axes]]

RULES: dict[str, Rule] = {
    "broadcast_in_dim": _Operation._broadcast,
    "reshape": _Operation._reshape,
    "squeeze": _Operation._squeeze,
    "expand_dims": _Operation._expand,
    "transpose": _Operation._transpose,
    "sort": _Operation._sort,
    "rev": _Operation._reverse,
    "top_k": _Operation._top_k,
    "concatenate": _Operation._concatenate,
    "split": _Operation._split,
    "pad": _Operation._pad,
    "slice": _Operation._slice,
    "dynamic_slice": _Operation._slice,
    "dynamic_update_slice": _Operation._update_slice,
    "gather": _Operation._gather,
    "dot_general": _Operation._product,
    "conv_general_dilated": _Operation._convolution,
    "cond": _Operation._conditional,
    "scan": _Operation._scan,
    "while": _Operation._while,
}
"""Rules of single primitives, by name."""
