"""Floating-point operations of the products among the equations of a jaxpr.

| equation                    | operations                                                       |
|-----------------------------|------------------------------------------------------------------|
| matrix product, also ragged | two for each output entry and each entry that it sums over       |
| convolution                 | the same; an output entry sums over the kernel of its feature    |
| triangular solve            | one for each entry of the matrix and each right-hand side        |
| kernel without visible code | those of a matrix product with operands and output of this size  |

A kernel is a Pallas kernel, a foreign function, a callback or a library routine. The product of an
m x k and a k x n matrix takes 2 m k n operations, twice the root of the product of the three sizes.
"""

import math
import re
from typing import Any

from jax.extend import core

from gtddp_jax.core.jaxprs import contained_programs

KERNELS = re.compile(
    r"pallas_call|ffi_call|tpu_custom_call|call_(exported|tf)|(pure|io|buffer)_callback|scaled_.*|"
    r"dot_product_attention.*|.*_(matvec|matmat|spmv|spmm)|bc(oo|sr)_(sp)?dot_general.*|rnn_.*"
)
"""Names of primitives that multiply matrices in code that no trace shows."""

PROGRAMS_WITHOUT_PRODUCTS = re.compile(r"reduce|reduce_window|scatter.*|select_and_.*|sort")
"""Names of primitives whose programs combine or compare single entries."""


def is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape has more than one axis along which it extends."""
    return sum(length > 1 for length in shape) > 1


def equation_flops(equation: core.JaxprEqn, operand: int) -> float:
    """Operations of a product of which one operand is a weight; 0 if it is no product.

    Args:
        equation: an equation that is counted as one operation.
        operand: the position of the weight among its inputs.
    """
    if not equation.outvars:
        return 0.0
    shapes = [shape_of(variable) for variable in equation.invars]
    output_shape = shape_of(equation.outvars[0])
    match equation.primitive.name:
        case "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            return 2.0 * math.prod(output_shape) * _size_along(shapes[0], contracted)
        case "ragged_dot_general":
            return _ragged_flops(equation.params["ragged_dot_dimension_numbers"], *shapes[:2])
        case "conv_general_dilated":
            # Each output entry sums over the kernel entries of one output feature.
            features = shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
            return 2.0 * math.prod(output_shape) * math.prod(shapes[1]) / features
        case "triangular_solve":
            return float(math.prod(output_shape) * shapes[0][-1])
    # A vector is no matrix: such a kernel scales or shifts.
    if not _is_kernel(equation) or not is_matrix(shapes[operand]):
        return 0.0
    others = [math.prod(shape) for at, shape in enumerate(shapes) if at != operand]
    output_size = max(math.prod(shape_of(variable)) for variable in equation.outvars)
    return 2.0 * math.sqrt(math.prod(shapes[operand]) * max(others, default=1) * output_size)


def _is_kernel(equation: core.JaxprEqn) -> bool:
    """Whether an equation multiplies in code that is not followed."""
    name = equation.primitive.name
    if KERNELS.fullmatch(name):
        return True
    # An unknown primitive that runs a program may do anything with its inputs.
    return bool(contained_programs(equation)) and not PROGRAMS_WITHOUT_PRODUCTS.fullmatch(name)


def _ragged_flops(numbers: Any, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Operations of a product of groups of rows; every row belongs to one group."""
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    fixed = {*contracted, *batch, *numbers.rhs_group_dimensions}
    return 2.0 * math.prod(left) * _size_along(right, set(range(len(right))) - fixed)


def _size_along(shape: tuple[int, ...], axes: Any) -> int:
    return math.prod(shape[axis] for axis in axes)


def shape_of(atom: Any) -> tuple[int, ...]:
    """The shape of a variable or literal; tokens have none."""
    return tuple(getattr(atom.aval, "shape", ()))
