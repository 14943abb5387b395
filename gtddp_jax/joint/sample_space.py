"""The joint step as an optimization over one number per output of the batch.

With F(d) = sum phi~(o + J d) + lambda / 2 (d - d0)^T M (d - d0), the minimizer has the form
`d = d0 + M^-1 J^T y`, and y [m] solves

    lambda y + grad phi~(o + J d0 + K y) = 0,   K = J M^-1 J^T

| symbol  | meaning                                                     | shape        |
|---------|-------------------------------------------------------------|--------------|
| phi~    | losses with the weights of their terms, `(c_k / N_k) phi_k`  | [m] -> scalar |
| H       | second derivatives of phi~, one block per sample            | [N_k, R_k, R_k] |
| root    | symmetric square root of H                                  | same         |
| y       | unknowns, one per output                                    | [m]          |

For squared losses one linear solve is exact. For other convex losses Newton's method runs on y,
with a line search on F, which costs nothing but products with K.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.core.types import Count, Scalar
from gtddp_jax.joint.linear_solve import Solution, Solver, no_solution
from gtddp_jax.joint.loss_blocks import loss_derivatives, multiply_blocks
from gtddp_jax.joint.newton_search import NewtonProgress, first_newton_progress, newton_length
from gtddp_jax.joint.objective import Blocks, Objective, TermOutputs
from gtddp_jax.joint.rows import unflatten_outputs
from gtddp_jax.joint.sample_systems import SampleSystem


def shift_outputs(outputs: TermOutputs, change: Float[Array, " m"]) -> TermOutputs:
    """The outputs plus a change of all of them, in the dtype of the change."""
    offsets = unflatten_outputs(change, outputs)
    return {name: value.astype(change.dtype) + offsets[name] for name, value in outputs.items()}


class SampleSearch(NamedTuple):
    """Where Newton's method stands.

    Attributes:
        multipliers: y [m].
        output_change: `K y` [m], the change of the outputs beyond that by d0.
        solution: how the last system was solved.
        steps: int32, number of steps so far.
        progress: whether to go on.
    """

    multipliers: Float[Array, " m"]
    output_change: Float[Array, " m"]
    solution: Solution
    steps: Count
    progress: NewtonProgress


@dataclasses.dataclass(frozen=True)
class SampleProblem:
    """F as a function of y.

    Attributes:
        objective: the losses.
        outputs: `o + J d0`.
        system: the Gram matrix.
        damping: lambda.
        make_solver: root of H -> a solver of `damping I + root K root`.
    """

    objective: Objective
    outputs: TermOutputs
    system: SampleSystem
    damping: Scalar
    make_solver: Callable[[Blocks], Solver]

    def value(self, multipliers: Float[Array, " m"], change: Float[Array, " m"]) -> Scalar:
        """F for multipliers y and `change = K y`."""
        losses = self.objective.value(shift_outputs(self.outputs, change))
        return losses + 0.5 * self.damping * multipliers @ change

    def newton_direction(
        self, multipliers: Float[Array, " m"], change: Float[Array, " m"]
    ) -> tuple[Float[Array, " m"], Solution, Float[Array, " m"]]:
        """A Newton step for y, how it was solved, and the residual `lambda y + grad phi~`.

        Solved as `root zeta + flat`: the part in the range of H symmetrically, which loses no
        digits where lambda is small, and the part where the losses are flat by itself.
        """
        like = self.outputs
        found = loss_derivatives(self.objective, shift_outputs(like, change), change.dtype)
        residual = self.damping * multipliers + found.gradient
        half = multiply_blocks(found.inverse_root, residual, like)
        right = -half
        flat = None
        if not self.objective.is_squared:
            flat = -(residual - multiply_blocks(found.root, half, like)) / self.damping
            right = right - multiply_blocks(found.root, self.system.multiply(flat), like)
        solution = self.make_solver(found.root)(right)
        step = multiply_blocks(found.root, solution.value, like)
        return step if flat is None else step + flat, solution, residual

    def solve(self, newton_steps: int) -> SampleSearch:
        """The minimizer; one solve for squared losses, else at most `newton_steps`."""
        size = sum(value.size for value in self.outputs.values())
        zeros = jnp.zeros(size, self.damping.dtype)
        progress = first_newton_progress()
        if self.objective.is_squared:
            step, solution, _ = self.newton_direction(zeros, zeros)
            change = self.system.multiply(step)
            return SampleSearch(step, change, solution, jnp.int32(1), progress)
        first = SampleSearch(zeros, zeros, no_solution(zeros), jnp.int32(0), progress)
        return jax.lax.while_loop(
            lambda search: (search.steps < newton_steps) & ~search.progress.finished,
            self._improve,
            first,
        )

    def _improve(self, search: SampleSearch) -> SampleSearch:
        y, change = search.multipliers, search.output_change
        step, solution, residual = self.newton_direction(y, change)
        step_change = self.system.multiply(step)
        length, progress = newton_length(
            lambda length: self.value(y + length * step, change + length * step_change),
            # F falls along the step at this rate: the square of the Newton decrement.
            -(residual @ step_change),
            search.progress,
        )
        return SampleSearch(
            y + length * step,
            change + length * step_change,
            solution,
            search.steps + 1,
            progress,
        )
