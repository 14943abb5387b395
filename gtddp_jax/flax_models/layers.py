"""Convolutions of a trace in the words of `flax.linen.Conv`."""

from gtddp_jax.flax_models.program import Equation
from gtddp_jax.players.layers import ConvLayer


def conv_layer(equation: Equation, ndim: int, kernel: tuple[int, ...]) -> ConvLayer | None:
    """A convolution with features last and no dilation of its input, described; else None."""
    if equation.name != "conv_general_dilated":
        return None
    given = equation.params
    numbers = given["dimension_numbers"]
    first = (0, ndim - 1, *range(1, ndim - 1))
    plain = (
        tuple(numbers.lhs_spec) == first
        and tuple(numbers.out_spec) == first
        and tuple(numbers.rhs_spec) == (ndim - 1, ndim - 2, *range(ndim - 2))
        and all(d == 1 for d in given["lhs_dilation"])
        and given["batch_group_count"] == 1
        and all(low >= 0 and high >= 0 for low, high in given["padding"])
    )
    if not plain:
        return None
    return ConvLayer(
        tuple(kernel[: ndim - 2]),
        tuple(given["window_strides"]),
        tuple((low, high) for low, high in given["padding"]),
        tuple(given["rhs_dilation"]),
        given["feature_group_count"],
    )
