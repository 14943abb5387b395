"""Bounds on gradients by matrices, from data and adjoints that are smaller than the gradient.

An entry of the gradient by a matrix is a sum of products of a datum, an adjoint and the weight of
their sample, so that by Cauchy and Schwarz its magnitude is at most `max |w| |X| |G|`.

| symbol | meaning                                          |
|--------|--------------------------------------------------|
| X      | the data that a product joins with the matrix    |
| G      | the adjoints of its output                       |
| w      | the weights of the samples                       |
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from gtddp_jax.core.trees import tree_vdot
from gtddp_jax.core.types import PerSample, Scalar
from gtddp_jax.tracing.adjoint_pass import AdjointPass
from gtddp_jax.tracing.parameter_reads import ReadFunction
from gtddp_jax.tracing.traced_program import ValueId

LEAST_SAVING = 4
"""How many times as large as data and adjoints a gradient must be to be bounded by them."""


def bound_gradients(adjoints: AdjointPass, w: PerSample) -> Mapping[int, Scalar]:
    """Bounds on the entries of `sum_i w_i G_i`, by the position of the leaf.

    No number on the way to a bounded gradient is larger than the bound either. Leaves whose
    gradient is not much larger than what bounds it are left out.

    Args:
        adjoints: a pass with adjoints, of a function that reuses them.
        w: the weights.
    """
    largest, bounds = jnp.abs(w).max(), {}
    for leaf, products in _data_of_products(adjoints.read_fn).items():
        size = sum(
            adjoints.data[data].size + adjoints.adjoints[position][0].size
            for position, data in products.items()
        )
        if LEAST_SAVING * size > adjoints.params[leaf].size:
            continue
        total = jnp.zeros((), largest.dtype)
        for position, data in products.items():
            x, g = _norm(adjoints.data[data]), _norm(adjoints.adjoints[position][0])
            # Either of both is multiplied by the weights first.
            total += largest * jnp.maximum(jnp.maximum(x, g), x * g)
        bounds[leaf] = total
    return bounds


def _norm(x: jax.Array) -> Scalar:
    return jnp.sqrt(tree_vdot(x, x))


def _data_of_products(read_fn: ReadFunction) -> dict[int, dict[int, ValueId]]:
    """The data of the products that read a leaf, by leaf and by the position of the read.

    Leaves that are also read in another way, or from which other values are computed, are left out.
    """
    program = read_fn.program
    found: dict[int, dict[int, ValueId]] = {}
    for leaf, value in enumerate(program.groups["params"]):
        products: dict[int, ValueId] = {}
        reads = [(i, read) for i, read in enumerate(read_fn.reads) if leaf in read.leaves]
        for position, read in reads:
            equation, data = program.equations[read.equation_index], read_fn.product_data(read)
            if (
                equation.name == "dot_general"
                and data is not None
                and equation.inputs[read.operands[0]] == value
            ):
                products[position] = data
        if products and len(products) == len(reads):
            found[leaf] = products
    return found
