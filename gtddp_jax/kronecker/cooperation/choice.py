"""Which form of cooperation a stage gets, from its structure."""

from collections.abc import Mapping
from typing import Any

from gtddp_jax.kronecker.cooperation.base import Cooperation, Separate
from gtddp_jax.kronecker.cooperation.paired import Paired
from gtddp_jax.kronecker.cooperation.theorem3 import Theorem3
from gtddp_jax.kronecker.cooperation.twins import Twins
from gtddp_jax.kronecker.layouts import Layout
from gtddp_jax.network.program import Add, Stage, Value

MODES = ("none", "theorem3", "rescale", "joint")


def choose(
    mode: str, stage: Stage, layouts: Mapping[str, Layout], *, damping_form: str, correct: bool
) -> Cooperation:
    """The cooperation of the Kronecker players of a stage.

    Args:
        mode: one of `MODES`.
        stage: the stage.
        layouts: its Kronecker players.
        damping_form: "exact" or "factored".
        correct: whether own blocks differ from factored damping, see `correction`.

    Raises:
        ValueError: the stage's players cannot act together in this mode.
    """
    if mode == "none" or len(layouts) < 2:
        return Separate(layouts)
    closed = len(layouts) == 2 or mode == "joint"
    if closed and damping_form == "exact" and are_twins(stage, layouts):
        return Twins(layouts, mode)
    grouped = [name for name, layout in layouts.items() if layout.groups > 1]
    if grouped:
        raise ValueError(
            f"cooperative={mode!r}: {grouped} are grouped convolutions, whose factors cannot be "
            "joined with those of other players. Use cooperative='none', or one feature group."
        )
    if mode != "joint":
        return Theorem3(layouts, mode == "rescale", correct)
    if len(layouts) == 2:
        return Paired(layouts, correct)
    raise ValueError(
        f"cooperative='joint' takes two players at a time, but {list(layouts)} act at once; "
        "only players that share one input and add their outputs may be more, under exact damping. "
        "Use 'theorem3', 'rescale' or 'none'."
    )


def are_twins(stage: Stage, layouts: Mapping[str, Layout]) -> bool:
    """Whether the players share their input and add their outputs, and have one geometry."""
    acts = [act for act in stage.acts if act.name in layouts]
    shapes = {(type(la), la.groups, la.rows, la.columns) for la in layouts.values()}
    geometry = [_geometry(act.module) for act in acts]
    if len(shapes) > 1 or any(g != geometry[0] for g in geometry):
        return False
    sums = {_sum_of(stage, act.target) for act in acts}
    return len({act.source for act in acts}) == 1 and len(sums) == 1 and None not in sums


def _sum_of(stage: Stage, value: Value) -> Value | None:
    """Where a value ends after it has only been added to others in this stage, if it has."""
    found = None
    while value not in stage.outputs:
        readers = [op for op in stage.ops if value in op.sources]
        if len(readers) != 1 or not isinstance(readers[0], Add):
            break
        found = value = readers[0].target
    return found


def _geometry(module: Any) -> tuple[Any, ...]:
    """What tells layers with parameters of one shape apart; strides 2 and (2, 2) are the same."""
    if not hasattr(module, "kernel_size"):
        return (module.use_bias,)
    size = _each(module.kernel_size, 1)
    padding = module.padding
    if not isinstance(padding, str):
        padding = tuple(_each(pad, 2) for pad in _each(padding, len(size)))
    return (
        module.use_bias,
        size,
        _each(module.strides or 1, len(size)),
        _each(module.kernel_dilation or 1, len(size)),
        padding,
        module.feature_group_count,
    )


def _each(value: Any, count: int) -> tuple[Any, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)
