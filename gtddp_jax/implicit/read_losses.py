"""Losses of a model whose reads of parameters are known: adjoints serve predictions."""

from collections.abc import Mapping

import jax
from typing_extensions import override

from gtddp_jax.core.explicit_sharding import explicit_mesh
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import Outputs, PerSample, Scalar, Tree
from gtddp_jax.core.xla import BRANCHES_ARE_CHEAP
from gtddp_jax.implicit.linearized_losses import LinearizedLosses
from gtddp_jax.tracing.adjoint_pass import AdjointPass
from gtddp_jax.tracing.gradient_bounds import bound_gradients
from gtddp_jax.tracing.parameter_reads import read_function


class ReadLosses(LinearizedLosses):
    """Like `LinearizedLosses`, by one adjoint pass where the reads of parameters allow it.

    Attributes:
        adjoint_pass: the pass; None if the model could not be read.
    """

    adjoint_pass: AdjointPass | None = None

    @override
    def _differentiate_model(self) -> tuple[Outputs, tuple[Tree, Tree | None]]:
        # The function of losses is called once where values may escape from it.
        outputs, rest = super()._differentiate_model()
        # Zeros to differentiate by are not spread over axes of type Explicit.
        is_explicit = explicit_mesh(self._params) is not None
        # What cannot be traced is refused by name once the model has been called.
        is_traceable = all(map(_is_array, jax.tree.leaves(rest)))
        can_read = is_traceable and not is_explicit
        read_fn = read_function(self._forward, self._params) if can_read else None
        if read_fn is None:
            return outputs, rest
        structure = jax.tree.structure((outputs, rest))
        leaves = jax.tree.leaves(self._params)
        self.adjoint_pass = AdjointPass(read_fn, leaves, SampleReductions(0, self._axis_name))
        return jax.tree.unflatten(structure, [*self.adjoint_pass.outputs, *self.adjoint_pass.rest])

    def propagate(self) -> AdjointPass | None:
        """The pass, with the adjoints of all samples' losses."""
        if self.adjoint_pass is not None:
            gradient = self._output_gradient(self.uniform_weights)
            self.adjoint_pass.propagate(jax.tree.leaves(gradient))
        return self.adjoint_pass

    @override
    def _pull_back(self, cotangent: PerSample) -> Tree:
        # Nothing is predicted for a linear loss, whose step is that of the base to the last bit.
        if self.adjoint_pass is None or self.expansion.is_linear:
            return super()._pull_back(cotangent)
        if self.adjoint_pass.read_fn.reuses_adjoints and not self.adjoint_pass.adjoints:
            self.propagate()
        gradient = jax.tree.leaves(self._output_gradient(cotangent))
        leaves = self.adjoint_pass.weighted_gradient(gradient, cotangent)
        return jax.tree.unflatten(jax.tree.structure(self._params), leaves)

    @override
    def gradient_bounds(self, w: PerSample) -> Mapping[int, Scalar]:
        found = self.adjoint_pass
        # Without adjoints another pass made the gradient.
        if found is None or not found.read_fn.reuses_adjoints or not found.adjoints:
            return {}
        if jax.default_backend() not in BRANCHES_ARE_CHEAP:
            return {}
        return bound_gradients(found, w / self.samples.count)


def _is_array(leaf: object) -> bool:
    return hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float, complex))
