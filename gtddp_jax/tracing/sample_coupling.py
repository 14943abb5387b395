"""Where samples influence each other: batch statistics, sums over the batch, reversed batches.

| equation                         | couples samples if                                           |
|----------------------------------|--------------------------------------------------------------|
| reads a value of the batch       | it writes an activation: subtracting a batch mean            |
| reverses, sorts, accumulates     | it does so along the sample axis                             |
| contains programs (`scan`, ...)  | one of the equations inside does, in any iteration or branch |

Shapes at two batch sizes tell activations from values of the batch inside of programs too.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jax.extend import core

from gtddp_jax.core.jaxprs import ContainedProgram, contained_programs
from gtddp_jax.tracing.sample_axes import SampleAxis, find_sample_axis, is_activation
from gtddp_jax.tracing.traced_program import TracedProgram, ValueId

ALONG_AXIS = {"cumsum": "axis", "cumprod": "axis", "cummax": "axis", "cummin": "axis"}
ALONG_AXIS |= {"cumlogsumexp": "axis", "sort": "dimension"}
"""Primitives that combine entries along one axis, and the parameter that names it."""


class BatchSizes(NamedTuple):
    """The two batch sizes at which a model was traced."""

    size: int
    other_size: int


def find_coupling_equations(
    program: TracedProgram, other: TracedProgram, sizes: BatchSizes
) -> frozenset[int]:
    """The equations that couple samples by themselves, as positions in the program.

    Args:
        program: the model traced with `sizes.size` samples.
        other: the model traced with `sizes.other_size` samples.
        sizes: the batch sizes.
    """
    pairs = zip(program.equations, other.equations, strict=True)
    return frozenset(
        index
        for index, (equation, twin) in enumerate(pairs)
        if _couples_by_itself(equation.source, twin.source, sizes)
    )


def find_mixed_values(
    program: TracedProgram,
    sample_axes: Sequence[SampleAxis | None],
    coupling_equations: Iterable[int],
) -> set[ValueId]:
    """The activations that influence other samples' activations, for example by a batch mean.

    Influence on running statistics alone does not count, because they reach no sample again.

    Args:
        program: the program.
        sample_axes: the sample axis of each of its values.
        coupling_equations: the equations that couple samples by themselves.
    """
    # For each value without a sample axis (a batch mean, say), the activations behind it.
    pooled_from: dict[ValueId, frozenset[ValueId]] = {}
    mixed: set[ValueId] = set()
    for equation in program.equations:
        sources = equation.value_inputs
        activations = frozenset(value for value in sources if is_activation(sample_axes[value]))
        pooled = frozenset().union(*(pooled_from.get(value, ()) for value in sources))
        for value in equation.outputs:
            # An activation computed from a pooled value depends on all samples in it.
            if is_activation(sample_axes[value]):
                mixed |= pooled
            else:
                pooled_from[value] = activations | pooled
    for index in coupling_equations:
        sources = program.equations[index].value_inputs
        mixed |= {value for value in sources if is_activation(sample_axes[value])}
    return mixed


def _couples_by_itself(equation: core.JaxprEqn, twin: core.JaxprEqn, sizes: BatchSizes) -> bool:
    """Whether an equation couples samples, whatever it reads."""
    if _combines_along_samples(equation, twin, sizes):
        return True
    programs, twins = contained_programs(equation), contained_programs(twin)
    return any(
        _couples_inside(program, other, sizes, _carried_inputs(equation))
        for program, other in zip(programs, twins, strict=True)
    )


def _combines_along_samples(
    equation: core.JaxprEqn, twin: core.JaxprEqn, sizes: BatchSizes
) -> bool:
    """Whether an equation moves or sums entries along the sample axis of its first input."""
    name, params = equation.primitive.name, equation.params
    if name != "rev" and name not in ALONG_AXIS:
        return False
    sample_axis = _variable_axis(equation.invars[0], twin.invars[0], sizes)
    axes = params["dimensions"] if name == "rev" else (params[ALONG_AXIS[name]],)
    return sample_axis is not None and sample_axis.axis in axes


def _carried_inputs(equation: core.JaxprEqn) -> dict[int, int]:
    """For a loop, the input of its body that takes each output of the last iteration."""
    params = equation.params
    match equation.primitive.name:
        case "scan":
            return {i: params["num_consts"] + i for i in range(params["num_carry"])}
        case "while":
            return {i: params["body_nconsts"] + i for i in range(len(equation.outvars))}
    return {}


def _couples_inside(
    program: ContainedProgram,
    twin: ContainedProgram,
    sizes: BatchSizes,
    carried_inputs: dict[int, int],
) -> bool:
    """Whether the equations of a program couple samples."""
    jaxpr, other = program.jaxpr, twin.jaxpr
    names, other_names = ([e.primitive.name for e in each.eqns] for each in (jaxpr, other))
    # A program that depends on the batch size cannot be followed.
    if names != other_names:
        return True
    # Variables without a sample axis that depend on activations.
    pooled: set[Any] = set()
    while True:
        for equation, twin_equation in zip(jaxpr.eqns, other.eqns, strict=True):
            if _couples_by_itself(equation, twin_equation, sizes):
                return True
            inputs = list(zip(equation.invars, twin_equation.invars, strict=True))
            reads_pooled = any(_is_among(atom, pooled) for atom, _ in inputs)
            reads_samples = any(is_activation(_variable_axis(*pair, sizes)) for pair in inputs)
            for pair in zip(equation.outvars, twin_equation.outvars, strict=True):
                if not is_activation(_variable_axis(*pair, sizes)):
                    pooled |= {pair[0]} if reads_pooled or reads_samples else set()
                elif reads_pooled:
                    return True
        # What one iteration has pooled, the next one reads.
        carried = {
            jaxpr.invars[position]
            for output, position in carried_inputs.items()
            if output < len(jaxpr.outvars) and _is_among(jaxpr.outvars[output], pooled)
        }
        if carried <= pooled:
            return False
        pooled |= carried


def _is_among(atom: Any, variables: set[Any]) -> bool:
    return not isinstance(atom, core.Literal) and atom in variables


def _variable_axis(atom: Any, twin: Any, sizes: BatchSizes) -> SampleAxis | None:
    """The sample axis of a variable, from its shapes at the two batch sizes."""
    shape, other_shape = (getattr(each.aval, "shape", ()) for each in (atom, twin))
    return find_sample_axis(shape, other_shape, *sizes)
