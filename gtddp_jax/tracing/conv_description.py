"""Traced convolutions described in the terms of `flax.linen.Conv`."""

from gtddp_jax.network.sample_gradients.layer_descriptions import ConvLayer
from gtddp_jax.tracing.traced_program import TracedEquation


def describe_convolution(
    equation: TracedEquation, ndim: int, kernel_shape: tuple[int, ...]
) -> ConvLayer | None:
    """Describes a convolution with features last and an undilated input; None for anything else.

    Args:
        equation: any equation.
        ndim: number of axes of its input.
        kernel_shape: shape of its kernel.
    """
    if equation.name != "conv_general_dilated":
        return None
    params = equation.params
    axes = params["dimension_numbers"]
    features_last = (0, ndim - 1, *range(1, ndim - 1))
    kernel_layout = (ndim - 1, ndim - 2, *range(ndim - 2))
    # What `nn.Conv` can express: dilated inputs (transposed convolutions), groups of the batch
    # and negative padding have no counterpart.
    supported = (
        tuple(axes.lhs_spec) == features_last
        and tuple(axes.out_spec) == features_last
        and tuple(axes.rhs_spec) == kernel_layout
        and all(dilation == 1 for dilation in params["lhs_dilation"])
        and params["batch_group_count"] == 1
        and all(low >= 0 and high >= 0 for low, high in params["padding"])
    )
    if not supported:
        return None
    return ConvLayer(
        tuple(kernel_shape[: ndim - 2]),
        tuple(params["window_strides"]),
        tuple((low, high) for low, high in params["padding"]),
        tuple(params["rhs_dilation"]),
        params["feature_group_count"],
    )
