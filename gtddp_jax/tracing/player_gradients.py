"""From uses to players: the per-sample gradients of a player's parameters.

| player                                          | how                                          |
|-------------------------------------------------|----------------------------------------------|
| each parameter has one use, and the use sees it | sums at the use, laid out as the parameter   |
| directly or in another layout                   |                                              |
| shared, or transformed before it meets data     | all uses together, pulled back through the   |
| (tied weights, BatchNorm's scale, weight norm)  | function from the parameters to the operands |

The symbols `w`, `k`, `d` and `G_i` are those of `SampleGradients`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.reverse_rules import directional_derivative
from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import Tree
from gtddp_jax.network.sample_gradients.base import SampleGradients, StoredGradients
from gtddp_jax.network.sample_gradients.layer_rules import ALWAYS_KEPT
from gtddp_jax.network.sample_gradients.recomputed import chunk_size
from gtddp_jax.tracing.ops import Operands, UseGradients
from gtddp_jax.tracing.param_views import ParamView

ViewedUse: TypeAlias = tuple[UseGradients, ParamView]
"""The only use of a parameter, and the layout in which it sees the parameter."""

OperandFn: TypeAlias = Callable[[Any], list[jax.Array]]
"""From a player's parameters to the operands of all its uses, one after the other."""


def named_arrays(params: Any) -> Mapping[str, jax.Array]:
    """A tree of one player's parameters, which is a dict of arrays for every traced player."""
    return params


def view_cost_rule(gradients: UseGradients, *, feedback: bool) -> str:
    """The cost rule of a parameter with one use.

    The rules are those of `gtddp_jax.network.sample_gradients.layer_rules`.
    """
    if gradients.kind == "bilinear" and not gradients.sums_positions:
        return "factored"  # squares of a product are products of squares
    if gradients.kind == "lookup":
        return "recomputed"  # a table for each sample would be mostly zeros
    use = gradients.use
    count = sum(operand.size for operand in use.operands)
    return _kept_or_recomputed(use.batch_size * count, use.stored_numbers, feedback=feedback)


def shared_cost_rule(gradients: Sequence[UseGradients], count: int, *, feedback: bool) -> str:
    """The cost rule of `count` parameters that are shared or transformed before their uses."""
    if not gradients:
        return "kept"
    stored = sum(each.use.stored_numbers for each in gradients)
    return _kept_or_recomputed(gradients[0].use.batch_size * count, stored, feedback=feedback)


def _kept_or_recomputed(numbers: int, stored: int, *, feedback: bool) -> str:
    """Gradients are kept if several sums need them and they take no more than the data does."""
    return "kept" if feedback and numbers <= max(ALWAYS_KEPT, stored) else "recomputed"


class ViewGradients(SampleGradients):
    """A player whose parameters each have one use, which sees them directly or reshaped.

    Args:
        viewed_uses: the use of each parameter by the parameter's name.
        feedback: whether more than one sum will be asked for.
    """

    def __init__(self, viewed_uses: Mapping[str, ViewedUse], *, feedback: bool) -> None:
        self._viewed_uses = dict(viewed_uses)
        # Decided for each parameter: a bias may be kept beside a factored kernel.
        self._kept = {
            key: StoredGradients(gradients.sample_gradients()[0])
            for key, (gradients, _) in viewed_uses.items()
            if view_cost_rule(gradients, feedback=feedback) == "kept"
        }

    @override
    def weighted_sum(self, w: jax.Array | None) -> Tree:
        totals = {}
        for key, (gradients, view) in self._viewed_uses.items():
            kept = self._kept.get(key)
            total: Any = gradients.weighted_sum(w)[0] if kept is None else kept.weighted_sum(w)
            totals[key] = view.to_param_layout(total)
        return totals

    @override
    def directional_derivative(self, k: Tree) -> jax.Array:
        change = named_arrays(k)
        terms = [self._leaf_derivative(key, change[key]) for key in self._viewed_uses]
        return jnp.stack(terms).sum(0)

    def _leaf_derivative(self, key: str, k: jax.Array) -> jax.Array:
        gradients, view = self._viewed_uses[key]
        k = view.to_use_layout(k)
        if key in self._kept:
            return self._kept[key].directional_derivative(k)
        return gradients.directional_derivative((k,))

    @override
    def quadratic_form(self, d: Tree) -> jax.Array:
        # A diagonal has no entries between parameters, so the form is a sum over them.
        diagonal = named_arrays(d)
        terms = [self._leaf_quadratic_form(key, diagonal[key]) for key in self._viewed_uses]
        return jnp.stack(terms).sum(0)

    def _leaf_quadratic_form(self, key: str, d: jax.Array) -> jax.Array:
        gradients, view = self._viewed_uses[key]
        d = view.to_use_layout(d)
        if key in self._kept:
            return self._kept[key].quadratic_form(d)
        # Some operations know the form without gradients; others take a few samples at a time.
        direct = gradients.quadratic_form(d)
        if direct is not None:
            return direct
        data, gradient = gradients.split_by_sample()
        return _chunked_quadratic_form(
            data, lambda sample: gradient(sample)[0], d, gradients.use.stored_numbers
        )

    @override
    def split_by_sample(self) -> tuple[Tree, Callable[[Tree], Tree]]:
        split = {
            key: gradients.split_by_sample() for key, (gradients, _) in self._viewed_uses.items()
        }

        def gradient(sample: Any) -> Tree:
            return {
                key: view.to_param_layout(upcast(split[key][1](sample[key])[0]))
                for key, (_, view) in self._viewed_uses.items()
            }

        return {key: data for key, (data, _) in split.items()}, gradient


class SharedGradients(SampleGradients):
    """A player whose parameters are shared between uses or transformed before them.

    Args:
        gradients: those of the uses, by the operands.
        operands_of: from the player's parameters to the operands of all uses.
        params: the player's parameters.
        feedback: whether more than one sum will be asked for.
    """

    def __init__(
        self,
        gradients: Sequence[UseGradients],
        operands_of: OperandFn,
        params: Tree,
        *,
        feedback: bool,
    ) -> None:
        self._gradients, self._operands_of, self._params = gradients, operands_of, params
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        # Linearised once: every sum over samples is pulled back through the same function.
        self._operands, self._pullback = jax.vjp(operands_of, params)
        keep = shared_cost_rule(gradients, count, feedback=feedback) == "kept"
        self._kept = StoredGradients(self._all_gradients()) if keep else None

    def _to_parameters(self, operand_gradients: Sequence[Operands]) -> Tree:
        """Pulls gradients by the operands of all uses back to the parameters."""
        flat = [gradient for of_use in operand_gradients for gradient in of_use]
        # Cotangents must have the operands' dtypes, although sums are computed in float32.
        cotangents = [
            gradient.astype(operand.dtype)
            for gradient, operand in zip(flat, self._operands, strict=True)
        ]
        (tree,) = self._pullback(cotangents)
        return jax.tree.map(upcast, tree)

    def _all_gradients(self) -> Tree:
        return jax.vmap(self._to_parameters)([each.sample_gradients() for each in self._gradients])

    @override
    def weighted_sum(self, w: jax.Array | None) -> Tree:
        if self._kept is not None:
            return self._kept.weighted_sum(w)
        return self._to_parameters([each.weighted_sum(w) for each in self._gradients])

    @override
    def directional_derivative(self, k: Tree) -> jax.Array:
        if self._kept is not None:
            return self._kept.directional_derivative(k)
        # A change of the parameters becomes a change of every operand, then of every use.
        tangents = jax.tree.map(lambda v, p: v.astype(p.dtype), k, self._params)
        changes: Any = directional_derivative(self._operands_of, (self._params,), (tangents,))
        # The changes of all operands are one list; each use takes as many as it has operands.
        remaining = iter(changes)
        products = []
        for each in self._gradients:
            operand_changes = tuple(next(remaining) for _ in each.use.operand_positions)
            products.append(each.directional_derivative(operand_changes))
        return jnp.stack(products).sum(0)

    @override
    def quadratic_form(self, d: Tree) -> jax.Array:
        if self._kept is not None:
            return self._kept.quadratic_form(d)
        data, gradient = self.split_by_sample()
        stored = sum(each.use.stored_numbers for each in self._gradients)
        return _chunked_quadratic_form(data, gradient, d, stored)

    @override
    def split_by_sample(self) -> tuple[Tree, Callable[[Tree], Tree]]:
        split = [each.split_by_sample() for each in self._gradients]

        def gradient(sample: Any) -> Tree:
            return self._to_parameters(
                [of_use(data) for (_, of_use), data in zip(split, sample, strict=True)]
            )

        return [data for data, _ in split], gradient


def _chunked_quadratic_form(
    data: Tree, gradient: Callable[[Any], Tree], d: Tree, stored: int
) -> jax.Array:
    """`G_i^T diag(d) G_i`, with the gradients of a few samples in memory at a time.

    Args:
        data: arrays with a leading sample axis.
        gradient: from one sample's data to its gradient.
        d: the diagonal.
        stored: as many numbers may be held as the uses store anyway.
    """

    def sample_quadratic_form(sample: Any) -> jax.Array:
        gradients = StoredGradients(jax.tree.map(lambda g: g[None], gradient(sample)))
        return gradients.quadratic_form(d)[0]

    # The size of one gradient decides how many fit into the allowance.
    shapes = jax.eval_shape(gradient, jax.tree.map(lambda array: array[0], data))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    chunk = chunk_size(count, max(ALWAYS_KEPT, stored))
    return jax.lax.map(sample_quadratic_form, data, batch_size=chunk)


class ZeroGradients(SampleGradients):
    """Parameters without influence on the outputs: all gradients are zero.

    Args:
        params: the parameters.
        batch_size: B.
        dtype: dtype of the sums over parameters.
    """

    def __init__(self, params: Tree, batch_size: int, dtype: Any) -> None:
        self._params, self._zeros = params, jnp.zeros((batch_size,), dtype)

    @override
    def weighted_sum(self, w: jax.Array | None) -> Tree:
        del w
        return jax.tree.map(lambda p: jnp.zeros_like(upcast(p)), self._params)

    @override
    def directional_derivative(self, k: Tree) -> jax.Array:
        del k
        return self._zeros

    @override
    def quadratic_form(self, d: Tree) -> jax.Array:
        del d
        return self._zeros

    @override
    def split_by_sample(self) -> tuple[Tree, Callable[[Tree], Tree]]:
        return self._zeros, lambda sample: self.weighted_sum(None)
