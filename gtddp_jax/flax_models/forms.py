"""Players that are a dense layer or a convolution, whatever module they come from.

Kronecker curvature needs them as such: a kernel used once, as it is, and a bias that is added to
its product and to nothing else.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from gtddp_jax.flax_models.axes import Axis
from gtddp_jax.flax_models.grouping import Member
from gtddp_jax.flax_models.kinds import Site
from gtddp_jax.flax_models.layers import conv_layer
from gtddp_jax.flax_models.program import Equation, Value
from gtddp_jax.flax_models.uses import Traced, Use
from gtddp_jax.flax_models.views import view_of
from gtddp_jax.players.layers import ConvLayer, DenseLayer, OtherLayer

Layer = DenseLayer | ConvLayer | OtherLayer


class Form(NamedTuple):
    """What a player is.

    Attributes:
        layer: its description.
        use: position of the use of its kernel in the list of uses, or -1.
        source: the value that it reads.
        target: the value that it writes.
    """

    layer: Layer
    use: int
    source: Value
    target: Value


def _dense_columns(traced: Traced, equation: Equation) -> tuple[int, ...] | None:
    """The output axes of a product with a kernel, if it is that of a dense layer."""
    if equation.name != "dot_general" or not isinstance(equation.inputs[0], int):
        return None
    (mine, theirs), (batch, _) = equation.params["dimension_numbers"]
    x, p = (traced.program.shapes[v] for v in equation.read)
    axis = traced.axes[equation.read[0]]
    n = len(mine)
    inputs = tuple(range(x.ndim - n, x.ndim))
    plain = not batch and tuple(mine) == inputs and tuple(theirs) == tuple(range(n))
    if not plain or axis is None or axis.axis >= x.ndim - n:
        return None
    return tuple(p.shape[n:])


def form_of(
    traced: Traced, makers: dict[Value, int], uses: tuple[Use, ...], member: Member
) -> Form:
    """The form of a player."""
    other = Form(OtherLayer(_label(traced, uses, member)), -1, -1, -1)
    program = traced.program
    if set(member.keys) - {"kernel", "bias"} or len(member.uses) != len(member.keys):
        return other
    found: dict[str, int] = {}
    for n in member.uses:
        use = uses[n]
        values = [program.equations[use.index].inputs[i] for i in use.operands]
        view = view_of(program, makers, values[0]) if len(values) == 1 else None
        if view is None or not view[1].plain:
            return other
        leaf = program.groups["params"].index(view[0])
        found[member.keys[member.leaves.index(leaf)]] = n
    if set(found) != set(member.keys) or "kernel" not in found:
        return other
    use = uses[found["kernel"]]
    equation = program.equations[use.index]
    if use.operands != (1,) or use.outputs != (0,):
        return other
    columns = _dense_columns(traced, equation)
    source, target = equation.inputs[0], equation.outputs[0]
    shapes = [program.shapes[v].shape for v in equation.read]
    bias = "bias" in found
    if columns is not None:
        layer: Layer | None = DenseLayer(int(np.prod(columns)), bias)
    else:
        layer = conv_layer(equation, len(shapes[0]), shapes[1])
        if layer is None or traced.axes[source] != Axis(0, 1) or traced.axes[target] != Axis(0, 1):
            return other
        layer = dataclasses.replace(layer, use_bias=bias)
        columns = shapes[1][-1:]
    if bias and not _added(traced, uses[found["bias"]], target, columns):
        return other
    return Form(layer, found["kernel"], source, target)


def _added(traced: Traced, use: Use, product: Value, columns: tuple[int, ...]) -> bool:
    """Whether a bias is added to a product, that is read nowhere else."""
    equations = traced.program.equations
    equation = equations[use.index]
    readers = sum(product in e.read for e in equations)
    if equation.name != "add" or product not in equation.read or readers != 1:
        return False
    shape = traced.program.shapes[equation.inputs[use.operands[0]]].shape
    out = traced.program.shapes[product].shape
    lead = len(out) - len(columns)
    return tuple(shape) == (1,) * lead + tuple(columns) and len(columns) > 0


def _label(traced: Traced, uses: tuple[Use, ...], member: Member) -> str:
    names = [traced.program.equations[uses[n].index].name for n in member.uses]
    return ", ".join(dict.fromkeys(names)) or "unused"


def matrix_data(form: Form, site: Site, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inputs and adjoints of a player as its layer wants them: [B, ..., features] each."""
    x, g = site.inputs[0], site.adjoints[0]
    if not isinstance(form.layer, DenseLayer):
        return x, g
    axis, columns = site.axes[0], form.layer.features
    assert axis is not None
    rows = kernel.size // columns
    positions = x.size // site.size // rows
    lead = (site.size,) if positions == 1 else (site.size, positions)
    x, g = axis.front(x), site.out_axes[0].front(g)
    return x.reshape(*lead, rows), g.reshape(*lead, columns)
