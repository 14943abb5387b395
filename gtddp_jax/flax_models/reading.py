"""A model at one batch size: traced, its parameters grouped into players, its stages laid out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.core.types import Tree
from gtddp_jax.flax_models.axes import COUPLED, sample_axes
from gtddp_jax.flax_models.forms import Form, form_of
from gtddp_jax.flax_models.grouping import Member, group
from gtddp_jax.flax_models.models import Model
from gtddp_jax.flax_models.program import Equation, Program, trace
from gtddp_jax.flax_models.schedule import Schedule, schedule
from gtddp_jax.flax_models.uses import Traced, Use, find_uses
from gtddp_jax.network.errors import NetworkError


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a trace tells.

    Attributes:
        traced: the program and its sample axes.
        uses: where parameters meet data.
        owners: for each value, the parameters that it is made of.
        members: the players, in the order in which they act.
        forms: what each player is, by name.
        plan: which equation runs in which stage.
        single: the program for one sample, if it has the same operations.
    """

    traced: Traced
    uses: tuple[Use, ...]
    owners: Sequence[frozenset[int]]
    members: tuple[Member, ...]
    forms: dict[str, Form]
    plan: Schedule
    single: Callable[[], Program | None]

    def alone(self, index: int) -> Equation | None:
        """An equation of the program for one sample."""
        program = self.single()
        return None if program is None else program.equations[index]


def batch_size(inputs: Any) -> int:
    """The number of samples of a tree of inputs [B, ...].

    Raises:
        NetworkError: the leaves do not have one leading axis in common.
    """
    shapes = [jnp.shape(x) for x in jax.tree.leaves(inputs)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or () in sizes:
        raise NetworkError(
            f"from_flax: inputs must have the samples as their first axis, all the same number of "
            f"them; got shapes {shapes}. Bind what is not per sample to the model, for example by "
            "functools.partial or apply_kwargs."
        )
    return sizes.pop()[0]


def _sized(inputs: Any, size: int) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *jnp.shape(x)[1:]), jnp.result_type(x)),
        inputs,
    )


def read_model(
    model: Model, leaves: Sequence[Any], state: Tree, rngs: Tree, inputs: Any, unsupported: str
) -> Reading:
    """Reads a model; everything given counts by shape and dtype only.

    Raises:
        NetworkError: the model cannot be read; the message says what to do.
    """
    size = batch_size(inputs)
    outputs = []

    def run(params: Any, state: Any, rngs: Any, inputs: Any) -> Any:
        found = model.apply(params, state, rngs, inputs, True)
        outputs.append(len(jax.tree.leaves(found[0])))
        return found

    shaped = [jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in leaves]

    def at(n: int) -> Program:
        return trace(run, params=shaped, state=state, rngs=rngs, inputs=_sized(inputs, n))

    program = at(size)
    axes = sample_axes(program, at(size + 1), size, size + 1)
    traced = Traced(program, axes, size, outputs[0])
    _check_outputs(traced)
    uses, owners = find_uses(traced, model.paths)
    if not uses:
        raise NetworkError("from_flax: the outputs do not depend on any parameter.")
    members = group(traced, uses, model.paths, unsupported)

    @functools.cache
    def single() -> Program | None:
        if size == 1:
            return program
        alone = at(1)
        return alone if alone.same_as(program) else None

    plan = schedule(traced, uses, owners, members)
    forms = {m.name: form_of(traced, plan.makers, uses, m) for m in members}
    return Reading(traced, uses, owners, members, forms, plan, single)


def _check_outputs(traced: Traced) -> None:
    for value in traced.program.outputs[: traced.outputs]:
        if not isinstance(value, int):
            raise NetworkError("from_flax: an output of the model is a constant.")
        shape, axis = traced.program.shapes[value], traced.axes[value]
        if axis is None or axis == COUPLED or (axis.axis, axis.rows) != (0, 1):
            raise NetworkError(
                f"from_flax: an output of shape {shape.shape} does not have the samples as its "
                "first axis. Return what has, one entry a sample; reduce in the loss."
            )
        if not traced.floating(value):
            raise NetworkError(
                f"from_flax: an output of shape {shape.shape} and dtype {shape.dtype} has no "
                "derivative. Return floating-point outputs only."
            )
