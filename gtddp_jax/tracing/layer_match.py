"""Recognises players that are a dense layer or a convolution, whatever module they come from.

Kronecker curvature needs such a layer: a kernel that is used once, without a change of its entries,
and a bias that is added to the kernel's product and to nothing else.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from gtddp_jax.network.sample_gradients.layer_descriptions import ConvLayer, DenseLayer, OtherLayer
from gtddp_jax.tracing.conv_description import describe_convolution
from gtddp_jax.tracing.grouping import PlayerGroup
from gtddp_jax.tracing.ops import BoundUse
from gtddp_jax.tracing.param_views import find_param_view
from gtddp_jax.tracing.parameter_uses import BatchedProgram, ParameterUse
from gtddp_jax.tracing.sample_axes import SampleAxis
from gtddp_jax.tracing.traced_program import TracedEquation, ValueId

TracedLayer: TypeAlias = DenseLayer | ConvLayer | OtherLayer

BATCH_FIRST = SampleAxis(0, 1)
NO_VALUE = -1


class LayerMatch(NamedTuple):
    """What kind of layer a player is.

    Attributes:
        layer: its description.
        kernel_use: position of the use of its kernel in the list of uses; None for other layers.
        source: the value that it reads, or `NO_VALUE`.
        target: the value that it writes, or `NO_VALUE`.
    """

    layer: TracedLayer
    kernel_use: int | None
    source: ValueId
    target: ValueId


def match_layer(
    batched: BatchedProgram,
    producers: Mapping[ValueId, int],
    uses: Sequence[ParameterUse],
    player: PlayerGroup,
) -> LayerMatch:
    """Recognises the layer of a player.

    Args:
        batched: the model.
        producers: for each value of parameters, the position of its equation.
        uses: the uses of parameters.
        player: the player.
    """
    other = LayerMatch(
        OtherLayer(_operation_names(batched, uses, player)), None, NO_VALUE, NO_VALUE
    )
    # Each parameter must have exactly one use.
    use_of_key = _uses_by_key(batched, producers, uses, player)
    if use_of_key is None or "kernel" not in use_of_key:
        return other
    kernel_use = uses[use_of_key["kernel"]]
    equation = batched.program.equations[kernel_use.equation_index]
    # The kernel must be the right operand of a product with data.
    if kernel_use.operands != (1,) or kernel_use.outputs != (0,):
        return other
    source, target = equation.inputs[0], equation.outputs[0]
    if not isinstance(source, int):
        return other
    use_bias = "bias" in use_of_key
    layer, columns = _describe_product(batched, equation, use_bias)
    if layer is None:
        return other
    if use_bias and not _is_bias(batched, uses[use_of_key["bias"]], target, columns):
        return other
    return LayerMatch(layer, use_of_key["kernel"], source, target)


def _uses_by_key(
    batched: BatchedProgram,
    producers: Mapping[ValueId, int],
    uses: Sequence[ParameterUse],
    player: PlayerGroup,
) -> dict[str, int] | None:
    """The use of each parameter; None unless each has exactly one, as a kernel or bias would."""
    if set(player.keys) - {"kernel", "bias"} or len(player.uses) != len(player.keys):
        return None
    program = batched.program
    use_of_key: dict[str, int] = {}
    for use_index in player.uses:
        use = uses[use_index]
        if len(use.operands) != 1:
            return None
        operand = program.equations[use.equation_index].inputs[use.operands[0]]
        found = find_param_view(program, producers, operand) if isinstance(operand, int) else None
        # A transposed kernel would swap the roles of the two Kronecker factors.
        if found is None or not found[1].keeps_order:
            return None
        leaf = program.groups["params"].index(found[0])
        use_of_key[player.keys[player.leaves.index(leaf)]] = use_index
    return use_of_key if set(use_of_key) == set(player.keys) else None


def _describe_product(
    batched: BatchedProgram, equation: TracedEquation, use_bias: bool
) -> tuple[DenseLayer | ConvLayer | None, tuple[int, ...]]:
    """The layer whose kernel product an equation is, or None, and the shape of its features."""
    # A product of matrices is a dense layer, anything else at most a convolution.
    columns = _dense_columns(batched, equation)
    if columns is not None:
        return DenseLayer(int(np.prod(columns)), use_bias), columns
    source, kernel = equation.value_inputs[:2]
    shapes = batched.program.shapes
    layer = describe_convolution(equation, len(shapes[source].shape), shapes[kernel].shape)
    # The layer's functions expect [B, spatial..., features].
    axes = [batched.sample_axes[value] for value in (source, equation.outputs[0])]
    if layer is None or axes != [BATCH_FIRST, BATCH_FIRST]:
        return None, ()
    return dataclasses.replace(layer, use_bias=use_bias), shapes[kernel].shape[-1:]


def _dense_columns(batched: BatchedProgram, equation: TracedEquation) -> tuple[int, ...] | None:
    """The output axes of the kernel, if an equation is the product of a dense layer."""
    if equation.name != "dot_general" or not isinstance(equation.inputs[0], int):
        return None
    (contracted, kernel_contracted), (batch_axes, _) = equation.params["dimension_numbers"]
    inputs, kernel = (batched.program.shapes[value] for value in equation.value_inputs)
    sample_axis = batched.sample_axes[equation.value_inputs[0]]
    count = len(contracted)
    # The trailing axes of the inputs meet the leading axes of the kernel, in order.
    is_dense = (
        not batch_axes
        and tuple(contracted) == tuple(range(inputs.ndim - count, inputs.ndim))
        and tuple(kernel_contracted) == tuple(range(count))
    )
    if not is_dense or sample_axis is None or sample_axis.axis >= inputs.ndim - count:
        return None
    return tuple(kernel.shape[count:])


def _is_bias(
    batched: BatchedProgram, use: ParameterUse, product: ValueId, columns: tuple[int, ...]
) -> bool:
    """Whether a parameter is added to the features of a product that nothing else reads."""
    equations, shapes = batched.program.equations, batched.program.shapes
    equation = equations[use.equation_index]
    # Another reader would see the product without its bias.
    readers = sum(product in other.value_inputs for other in equations)
    operand = equation.inputs[use.operands[0]]
    if equation.name != "add" or product not in equation.value_inputs or readers != 1:
        return False
    if not columns or not isinstance(operand, int):
        return False
    leading = len(shapes[product].shape) - len(columns)
    # A bias has been brought to the rank of the product, with ones before the features.
    return tuple(shapes[operand].shape) == (1,) * leading + columns


def _operation_names(
    batched: BatchedProgram, uses: Sequence[ParameterUse], player: PlayerGroup
) -> str:
    """The operations in which the parameters of a player meet data."""
    equations = [batched.program.equations[uses[use].equation_index] for use in player.uses]
    return ", ".join(dict.fromkeys(equation.name for equation in equations)) or "unused"


def layer_data(match: LayerMatch, use: BoundUse, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inputs and adjoints of a player in the layout of its layer, [B, ..., features] each.

    Args:
        match: the player's layer.
        use: the use of its kernel.
        kernel: the kernel as a parameter.
    """
    inputs, adjoints = use.inputs[0], use.adjoints[0]
    # Convolutions have been matched in their own layout already.
    if not isinstance(match.layer, DenseLayer):
        return inputs, adjoints
    input_axis, output_axis = use.input_axes[0], use.output_axes[0]
    assert input_axis is not None
    columns = match.layer.features
    rows = kernel.size // columns
    # All axes between samples and features are positions of a dense layer.
    positions = inputs.size // use.batch_size // rows
    leading = (use.batch_size,) if positions == 1 else (use.batch_size, positions)
    inputs, adjoints = input_axis.to_front(inputs), output_axis.to_front(adjoints)
    return inputs.reshape(*leading, rows), adjoints.reshape(*leading, columns)
