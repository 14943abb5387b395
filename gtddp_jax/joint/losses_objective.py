"""The objective from a function of losses, which is a function of the whole batch.

Rows of J follow from one reverse pass over the batch for each output of a sample (`read_rows`).
Where samples influence each other (batch normalization), or parameters are used in a way that is
not read, there is one pass for each output of each sample: exact for any model, but a batch of N
samples costs N times as much. The losses must be separate: H has no blocks between samples.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.outputs import join_outputs, split_forward, split_outputs
from gtddp_jax.core.types import AxisName, Flag, Number, Outputs, Scalar, Tree
from gtddp_jax.joint.objective import Objective, TermOutputs
from gtddp_jax.joint.read_rows import AdjointRows, read_outputs
from gtddp_jax.losses.losses import Losses
from gtddp_jax.losses.split_losses import SplitLosses
from gtddp_jax.network.training_scope import training_scope
from gtddp_jax.terminal.base import loss_along_gradient
from gtddp_jax.terminal.coupling import samples_are_coupled

NAME = "loss"
"""The name of the only term."""

PASSES_AT_ONCE = 32
"""Number of reverse passes over the batch that run side by side."""


class LossesObjective(Objective):
    """The mean of the losses of one batch; see `gtddp_jax.Losses`.

    Args:
        losses_fn: `losses(params) -> Losses`.
        params: the parameters.
        axis_name: the mapped axis over devices, or None.

    Attributes:
        aux: what the function of losses returned to its caller.
    """

    is_squared: bool = False

    def __init__(
        self, losses_fn: Callable[[Tree], Losses], params: Tree, axis_name: AxisName
    ) -> None:
        def call(params: Tree) -> Losses:
            # Lets a network refuse a call that would silently train without dropout.
            with training_scope("joint"):
                return losses_fn(params)

        self.axis_name: AxisName = axis_name
        self._split = SplitLosses(call, axis_name)

        # Differentiated, because only then does `SplitLosses` see what depends on the parameters.
        outputs, _, (self._constants, aux) = jax.vjp(
            split_forward(self._split.forward), self.local_copy(params), has_aux=True
        )
        self.aux: Tree | None = aux
        _check_real(outputs)
        self._structure = jax.tree.structure(outputs)
        self._shapes = [leaf.shape for leaf in jax.tree.leaves(outputs)]
        self.counts: dict[str, int] = {NAME: self._shapes[0][0]}

    @override
    def local_outputs(self, params: Tree) -> TermOutputs:
        outputs, _ = split_outputs(self._split.forward(params)[0])
        leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(outputs)]
        return {NAME: jnp.concatenate(leaves, axis=1)}

    @override
    def some_outputs(self, params: Tree, name: str, places: jax.Array) -> jax.Array:
        return self.local_outputs(params)[name][places]

    def _loss(self, flat: jax.Array) -> jax.Array:
        """The losses [n] for outputs [n, R], so that their mean is the objective."""
        return self._split.loss(join_outputs(self._outputs_of(flat), self._constants))

    def _outputs_of(self, flat: jax.Array) -> Outputs:
        leaves, start = [], 0
        for shape in self._shapes:
            width = flat.shape[1] if len(self._shapes) == 1 else math.prod(shape[1:])
            leaves.append(flat[:, start : start + width].reshape(shape))
            start += width
        return jax.tree.unflatten(self._structure, leaves)

    @override
    def sample_rows(self, params: Tree, name: str, places: jax.Array) -> Tree:
        outputs, pull_back = jax.vjp(lambda params: self.local_outputs(params)[NAME], params)
        width = outputs.shape[1]

        def row(index: jax.Array) -> Tree:
            one = jnp.zeros(outputs.size, outputs.dtype).at[index].set(1)
            (gradient,) = pull_back(self.local_copy(one.reshape(outputs.shape)))
            return jax.tree.map(jnp.ravel, gradient)

        indices = (places[:, None] * width + jnp.arange(width)[None]).ravel()
        return jax.lax.map(row, indices, batch_size=min(PASSES_AT_ONCE, indices.size))

    @override
    def adjoint_rows(self, params: Tree, name: str) -> AdjointRows | None:
        def outputs(params: Tree) -> jax.Array:
            return self.local_outputs(params)[name]

        found = read_outputs(outputs, params, self.axis_name)
        return None if found is None else found.propagate(params)

    @override
    def local_losses(self, outputs: TermOutputs) -> dict[str, Scalar]:
        return {NAME: self._loss(outputs[NAME]).sum() / self.samples(NAME).count}

    @override
    def local_derivatives(
        self, outputs: TermOutputs
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        flat = outputs[NAME]
        count = self.samples(NAME).count

        def gradient(flat: jax.Array) -> jax.Array:
            losses, pull_back = jax.vjp(self._loss, flat)
            return pull_back(self.local_copy(jnp.full_like(losses, 1 / count)))[0]

        value, pull_back = jax.vjp(gradient, flat)

        # Samples are separate, so one reverse pass gives one row of all their Hessians.
        def hessian_row(unit: jax.Array) -> jax.Array:
            return pull_back(self.local_copy(jnp.broadcast_to(unit[None], value.shape)))[0]

        rows = jax.vmap(hessian_row)(jnp.eye(flat.shape[1], dtype=value.dtype))
        return {NAME: value}, {NAME: jnp.moveaxis(rows, 0, 1)}

    @override
    def samples_coupled(self, params: Tree, outputs: TermOutputs) -> Flag:
        samples = self.samples(NAME)
        if samples.local == 1 and samples.axis_name is None:
            return jnp.array(False)
        own = self.own_part(outputs)[NAME]
        return samples_are_coupled(loss_along_gradient(self._loss, own), samples)

    @override
    def regularizer_and_grad(self, params: Tree) -> tuple[Number, Tree | None]:
        return self._split.regularizer_and_grad(params)


def _check_real(outputs: Any) -> None:
    leaves = jax.tree.leaves(outputs)
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        dtypes = ", ".join(str(leaf.dtype) for leaf in leaves) or "none"
        raise ValueError(
            f"joint: outputs of gtddp_jax.Losses must be real floating-point numbers, got {dtypes}."
            " Return the real and imaginary parts of complex outputs side by side."
        )
