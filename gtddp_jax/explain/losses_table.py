"""The table of a function of losses: which parameters the implicit game predicts with."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.outputs import split_forward
from gtddp_jax.core.types import Tree
from gtddp_jax.explain.text_table import align_columns
from gtddp_jax.implicit.weighting import Sketch
from gtddp_jax.losses.losses import LossesFn
from gtddp_jax.losses.split_losses import SplitLosses
from gtddp_jax.network.training_scope import training_scope
from gtddp_jax.tracing.leaf_blocks import LeafPlan, plan_leaves
from gtddp_jax.tracing.parameter_reads import ReadFunction, read_function

HEADER = ("parameter", "shape", "read by", "part in the prediction")
UNREADABLE = (
    "The whole network predicts, as with gt.weighting.Full: the outputs have one sample, or depend "
    "on no parameter in a way that can be read."
)


def explain_losses(
    losses: LossesFn,
    params: Tree,
    *args: Any,
    weighting: Sketch | None = None,
    **kwargs: Any,
) -> str:
    """What `implicit` with `weighting="sketch"` does with a function of losses, as a table.

    One row per array of the parameters: the operations that read it, and the part of it from which
    a step is predicted. Everything is trained, whatever its part. Nothing is computed: the function
    is traced.

    Args:
        losses: `losses(params, *args, **kwargs) -> gtddp_jax.Losses`.
        params: the parameters, or their shapes.
        *args: as for `losses`: a batch, random keys; arrays or shapes.
        weighting: the sketch; by default the one of `implicit`.
        **kwargs: as for `losses`.

    Returns:
        Text for `print`.

    Raises:
        ValueError: what `losses` returned is no `Losses`, or not valid.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> def losses(params, x, y):
        ...     outputs = jnp.tanh(x @ params["w1"]) @ params["w2"]
        ...     return gt.Losses(outputs, lambda o: optax.l2_loss(o, y).sum(-1))
        >>> params = {"w1": jnp.ones((64, 256)), "w2": jnp.ones((256, 1))}
        >>> print(gt.explain_losses(losses, params, jnp.ones((32, 64)), jnp.ones((32, 1))))
        2 of 2 arrays take part, 16640 of 16640 parameters; adjoints are computed once
        parameter  shape      read by      part in the prediction
        ['w1']     (64, 256)  dot_general  4 of 64 along axis 0
        ['w2']     (256, 1)   dot_general  all
    """
    weighting = Sketch() if weighting is None else weighting
    read_fns: list[ReadFunction | None] = []

    def trace(params: Tree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        def call(params: Tree) -> Any:
            with training_scope("implicit"):
                return losses(params, *args, **kwargs)

        read_fns.append(read_function(split_forward(SplitLosses(call, None).forward), params))

    jax.eval_shape(trace, params, args, kwargs)
    (read_fn,) = read_fns
    if read_fn is None:
        return UNREADABLE
    plans = plan_leaves(read_fn, weighting.share)
    return "\n".join([_headline(params, read_fn, plans), *_rows(params, read_fn, plans)])


def _headline(params: Tree, read_fn: ReadFunction, plans: Sequence[LeafPlan]) -> str:
    sizes = [math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params)]
    taking_part = sum(sizes[plan.leaf] for plan in plans)
    passes = (
        "adjoints are computed once"
        if read_fn.reuses_adjoints
        else "a second pass computes the weighted gradient"
    )
    return (
        f"{len(plans)} of {len(sizes)} arrays take part, {taking_part} of {sum(sizes)} parameters; "
        f"{passes}"
    )


def _rows(params: Tree, read_fn: ReadFunction, plans: Sequence[LeafPlan]) -> list[str]:
    plan_of = {plan.leaf: plan for plan in plans}
    rows: list[tuple[str, ...]] = [HEADER]
    for leaf, (path, array) in enumerate(jax.tree_util.tree_leaves_with_path(params)):
        readers = dict.fromkeys(
            read_fn.program.equations[read.equation_index].name
            for read in read_fn.reads
            if leaf in read.leaves
        )
        rows.append(
            (
                jax.tree_util.keystr(path),
                str(jnp.shape(array)),
                ", ".join(readers) or "nothing",
                _part(plan_of.get(leaf)),
            )
        )
    return align_columns(rows)


def _part(plan: LeafPlan | None) -> str:
    if plan is None:
        return "none"
    part = "all"
    if plan.axis is not None:
        part = f"{plan.blocks.size} of {plan.blocks.units} along axis {plan.axis}"
    if plan.bands is None:
        return part
    positions = plan.bands.partition
    return f"{part}, at {positions.size} of {positions.units} positions"
