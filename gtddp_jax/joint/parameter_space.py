"""The joint step as an optimization over the parameters, for more outputs than parameters.

The minimizer of F (see `sample_space.py`) by Newton's method on the change `e = d - d0`:

    (J^T H J + lambda M) step = -(J^T grad phi~ + lambda M e)

One step is exact for squared losses.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gtddp_jax.core.types import Count, Scalar, Tree
from gtddp_jax.joint.linear_solve import (
    Solution,
    Solver,
    largest_eigenvalue,
    no_solution,
    symmetric_solver,
)
from gtddp_jax.joint.loss_blocks import LossDerivatives, loss_derivatives
from gtddp_jax.joint.newton_search import NewtonProgress, first_newton_progress, newton_length
from gtddp_jax.joint.objective import Blocks, TermOutputs
from gtddp_jax.joint.rows import OutputRows, flatten_outputs, unflatten_outputs
from gtddp_jax.joint.sample_space import shift_outputs


def flatten_tree(tree: Tree, dtype: Any) -> Float[Array, " p"]:
    """All leaves one after the other, in a common dtype."""
    return jnp.concatenate([leaf.astype(dtype).ravel() for leaf in jax.tree.leaves(tree)])


class ParameterSearch(NamedTuple):
    """Where Newton's method stands.

    Attributes:
        change: e [p].
        output_change: `J e` [m].
        solution: how the last system was solved.
        steps: int32, number of steps so far.
        progress: whether to go on.
    """

    change: Float[Array, " p"]
    output_change: Float[Array, " m"]
    solution: Solution
    steps: Count
    progress: NewtonProgress


@dataclasses.dataclass(frozen=True)
class ParameterProblem:
    """F as a function of e, a vector of all parameters [p].

    Attributes:
        rows: derivatives of the outputs at the parameters.
        metric: the diagonal of M [p].
        outputs: `o + J d0`.
    """

    rows: OutputRows
    metric: Float[Array, " p"]
    outputs: TermOutputs

    def tree_of(self, vector: Float[Array, " p"]) -> Tree:
        """A vector of all parameters as a tree, in the dtype of the vector."""
        like = jax.tree.map(lambda x: jnp.zeros(x.shape, vector.dtype), self.rows.params)
        return ravel_pytree(like)[1](vector)

    def output_change(self, change: Float[Array, " p"]) -> Float[Array, " m"]:
        """`J change` [m]."""
        return flatten_outputs(self.rows.push_forward(self.tree_of(change)), change.dtype)

    def derivatives(self, output_change: Float[Array, " m"]) -> LossDerivatives:
        """Derivatives of the losses at `o + J (d0 + e)`."""
        shifted = shift_outputs(self.outputs, output_change)
        return loss_derivatives(self.rows.objective, shifted, output_change.dtype)

    def value(
        self, change: Float[Array, " p"], output_change: Float[Array, " m"], damping: Scalar
    ) -> Scalar:
        """F for a change e and `output_change = J e`."""
        losses = self.rows.objective.value(shift_outputs(self.outputs, output_change))
        return losses + 0.5 * damping * change @ (self.metric * change)

    def curvature(self, hessian: Blocks) -> Float[Array, "p p"]:
        """`J^T H J` [p, p]."""
        return self.rows.normal_matrix(hessian)

    def largest_eigenvalue(self, curvature: Float[Array, "p p"]) -> Scalar:
        """Of `M^(-1/2) J^T H J M^(-1/2)`, which has the non-zero eigenvalues of `H^1/2 K H^1/2`."""
        scale = jax.lax.rsqrt(self.metric)
        start = scale * jnp.sqrt(jnp.maximum(jnp.diagonal(curvature), 0))
        return largest_eigenvalue(
            lambda vector: scale * (curvature @ (scale * vector)),
            start,
        )

    def solver(self, curvature: Float[Array, "p p"], damping: Scalar) -> Solver:
        """Solves `(curvature + damping M) x = right`, the matrix prepared once."""
        return symmetric_solver(
            lambda: curvature + damping * jnp.diag(self.metric),
            lambda vector: curvature @ vector + damping * self.metric * vector,
        )

    def solve(
        self, make_solver: Callable[[Blocks], Solver], damping: Scalar, newton_steps: int
    ) -> tuple[Float[Array, " p"], Float[Array, " m"], Solution, jax.Array]:
        """The minimizer e, `J e`, how the last system was solved, and the number of Newton steps.

        Args:
            make_solver: H -> a solver of `J^T H J + damping M`.
            damping: lambda.
            newton_steps: largest number of steps, for losses that are not squared.
        """
        size = self.metric.size
        zeros = jnp.zeros(size, damping.dtype)
        none = jnp.zeros(sum(o.size for o in self.outputs.values()), damping.dtype)
        if not self.rows.objective.is_squared:
            return self._newton(zeros, none, make_solver, damping, newton_steps)
        found = self.derivatives(none)
        solution = make_solver(found.hessian)(-self._gradient(found, zeros, damping))
        return solution.value, self.output_change(solution.value), solution, jnp.int32(1)

    def _gradient(self, found: LossDerivatives, change: jax.Array, damping: Scalar) -> jax.Array:
        """The gradient of F by e, [p], from derivatives of the losses at e."""
        pulled = self.rows.pull_back(unflatten_outputs(found.gradient, self.outputs))
        return flatten_tree(pulled, self.rows.dtype) + damping * self.metric * change

    def _newton(
        self,
        change: jax.Array,
        output_change: jax.Array,
        make_solver: Callable[[Blocks], Solver],
        damping: Scalar,
        newton_steps: int,
    ) -> tuple[jax.Array, jax.Array, Solution, jax.Array]:
        def improve(search: ParameterSearch) -> ParameterSearch:
            change, output_change = search.change, search.output_change
            found = self.derivatives(output_change)
            gradient = self._gradient(found, change, damping)
            solution = make_solver(found.hessian)(-gradient)
            step = solution.value
            step_change = self.output_change(step)

            def value_along(length: jax.Array) -> jax.Array:
                moved = output_change + length * step_change
                return self.value(change + length * step, moved, damping)

            length, progress = newton_length(value_along, -(gradient @ step), search.progress)
            return ParameterSearch(
                change + length * step,
                output_change + length * step_change,
                solution,
                search.steps + 1,
                progress,
            )

        def unfinished(search: ParameterSearch) -> jax.Array:
            return (search.steps < newton_steps) & ~search.progress.finished

        nothing = no_solution(change)
        first = ParameterSearch(
            change, output_change, nothing, jnp.int32(0), first_newton_progress()
        )
        found = jax.lax.while_loop(unfinished, improve, first)
        return found.change, found.output_change, found.solution, found.steps
