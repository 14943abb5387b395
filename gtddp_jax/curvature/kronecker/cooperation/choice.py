"""Chooses the form of cooperation that fits the structure of a stage."""

from collections.abc import Mapping
from typing import Any

from gtddp_jax.curvature.kronecker.cooperation.base import Cooperation, SeparatePlayers
from gtddp_jax.curvature.kronecker.cooperation.dense_joint import (
    MAX_JOINT_PARAMETERS,
    DenseJoint,
    joint_parameters,
)
from gtddp_jax.curvature.kronecker.cooperation.shared_input import SharedInput
from gtddp_jax.curvature.kronecker.cooperation.theorem3 import Theorem3
from gtddp_jax.curvature.kronecker.cooperation.two_player_joint import TwoPlayerJoint
from gtddp_jax.curvature.kronecker.matrix_layouts import MatrixLayout
from gtddp_jax.network.program import AddOp, ValueId
from gtddp_jax.network.protocol import NetworkStage

COOPERATION_MODES = ("none", "theorem3", "rescale", "joint")


def choose_cooperation(
    mode: str,
    stage: NetworkStage,
    layouts: Mapping[str, MatrixLayout],
    *,
    exact_damping: bool,
    correct: bool,
) -> Cooperation[Any]:
    """The cooperation of the Kronecker players of a stage.

    Args:
        mode: one of `COOPERATION_MODES`.
        stage: the stage.
        layouts: its Kronecker players.
        exact_damping: whether damping is added to the product of the factors.
        correct: whether each player keeps its own block, see `correction`.

    Raises:
        ValueError: the stage's players cannot act together in this mode.
    """
    if mode == "none" or len(layouts) < 2:
        return SeparatePlayers(layouts)
    # Closed forms exist for two players in each mode, and for any number under `joint`.
    closed_form = len(layouts) == 2 or mode == "joint"
    if closed_form and exact_damping and shares_input(stage, layouts):
        return SharedInput(layouts, mode)
    # A grouped convolution has one factor per group; joint factors have a single group.
    grouped = [name for name, layout in layouts.items() if layout.groups > 1]
    if grouped:
        raise ValueError(
            f"cooperative={mode!r}: {grouped} are grouped convolutions, whose factors cannot be "
            "joined with those of other players. Use cooperative='none', or one feature group."
        )
    if mode != "joint":
        return Theorem3(layouts, mode == "rescale", correct)
    if len(layouts) == 2:
        return TwoPlayerJoint(layouts, correct)
    count = joint_parameters(layouts)
    if count > MAX_JOINT_PARAMETERS:
        raise ValueError(
            f"cooperative='joint': {list(layouts)} act in one stage and have {count} parameters; "
            f"the block of three players or more is inverted as one matrix, up to "
            f"{MAX_JOINT_PARAMETERS} parameters. Only players that share one input and add their "
            "outputs may have more, under exact damping. Use 'theorem3', 'rescale' or 'none'."
        )
    return DenseJoint(layouts, correct)


def shares_input(stage: NetworkStage, layouts: Mapping[str, MatrixLayout]) -> bool:
    """Whether the players have one input and one geometry, and their outputs are added."""
    player_ops = [player_op for player_op in stage.player_ops if player_op.name in layouts]
    shapes = {
        (type(layout), layout.groups, layout.rows, layout.columns) for layout in layouts.values()
    }
    # Kernels of one shape may still differ in strides or padding.
    geometries = [_layer_geometry(player_op.module) for player_op in player_ops]
    if len(shapes) > 1 or any(geometry != geometries[0] for geometry in geometries):
        return False
    # Outputs that do not end in the same sum have different adjoints.
    sums = {_final_sum(stage, player_op.target) for player_op in player_ops}
    inputs = {player_op.source for player_op in player_ops}
    return len(inputs) == 1 and len(sums) == 1 and None not in sums


def _final_sum(stage: NetworkStage, value: ValueId) -> ValueId | None:
    """The last of the sums that take a value and nothing else reads, or None without any."""
    final_sum = None
    # Later stages read the outputs of a stage, which is another use of the value.
    while value not in stage.outputs:
        readers = [op for op in stage.ops if value in op.sources]
        # After any other operation the adjoints are no longer those of the sum.
        if len(readers) != 1 or not isinstance(readers[0], AddOp):
            break
        final_sum = value = readers[0].target
    return final_sum


def _layer_geometry(module: Any) -> tuple[Any, ...]:
    """What layers with parameters of one shape may differ in; strides 2 and (2, 2) are the same."""
    # Dense layers of one shape differ in nothing else.
    if not hasattr(module, "kernel_size"):
        return (module.use_bias,)
    kernel_size = _as_tuple(module.kernel_size, 1)
    dimensions = len(kernel_size)
    padding = module.padding
    if not isinstance(padding, str):
        padding = tuple(_as_tuple(pad, 2) for pad in _as_tuple(padding, dimensions))
    return (
        module.use_bias,
        kernel_size,
        # Flax takes None, an int or a tuple.
        _as_tuple(module.strides or 1, dimensions),
        _as_tuple(module.kernel_dilation or 1, dimensions),
        padding,
        module.feature_group_count,
    )


def _as_tuple(value: Any, count: int) -> tuple[Any, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)
