"""The direction of a joint step: the minimizer of F, on whichever side is smaller."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.core.trees import add_trees
from gtddp_jax.core.types import Count, Scalar, Tree
from gtddp_jax.joint.acceleration import (
    acceleration_in_parameter_space,
    acceleration_in_sample_space,
    bounded_acceleration,
)
from gtddp_jax.joint.game import JointGame, JointState
from gtddp_jax.joint.linear_solve import Solution, Solver
from gtddp_jax.joint.loss_blocks import loss_derivatives
from gtddp_jax.joint.objective import Blocks, TermOutputs
from gtddp_jax.joint.parameter_space import ParameterProblem, flatten_tree
from gtddp_jax.joint.rows import OutputRows, flatten_outputs, unflatten_outputs
from gtddp_jax.joint.sample_space import SampleProblem, shift_outputs
from gtddp_jax.joint.sample_systems import DenseSystem, MatrixFreeSystem, SampleSystem


class Direction(NamedTuple):
    """The minimizer of F.

    Attributes:
        step: d, a tree like the parameters.
        output_change: `J d`, flattened [m].
        acceleration: a, a tree like the parameters, zeros where it is too large; None without.
        acceleration_ratio: |a| / |d|, before a is bounded; 0 without.
        damping: lambda.
        largest: estimate of the largest eigenvalue of the undamped curvature.
        solution: how the last linear system was solved.
        newton_steps: int32.
    """

    step: Tree
    output_change: Float[Array, " m"]
    acceleration: Tree | None
    acceleration_ratio: Scalar
    damping: Scalar
    largest: Scalar
    solution: Solution
    newton_steps: Count


class _Start(NamedTuple):
    """d0 with what it does to the outputs; None stands for zeros."""

    step: Tree | None
    output_change: Float[Array, " m"]


class DirectionFinder:
    """F at the present parameters.

    Args:
        game: the options.
        rows: the derivatives of the outputs.
        outputs: the outputs.
        state: the state of the game.
        metric: M, or None.
        linear: the gradient of further costs, which enter F as `linear . d`; or None.
    """

    def __init__(
        self,
        game: JointGame,
        rows: OutputRows,
        outputs: TermOutputs,
        state: JointState,
        metric: Tree | None,
        linear: Tree | None,
    ) -> None:
        self.game: JointGame = game
        self.rows: OutputRows = rows
        self.outputs: TermOutputs = outputs
        self.state: JointState = state
        self.metric: Tree | None = metric
        self.linear: Tree | None = linear

    def find(self) -> Direction:
        """The minimizer of F."""
        step = self.game.momentum_step(self.state, self.rows.params)
        if step is None:
            size = sum(value.size for value in self.outputs.values())
            start = _Start(None, jnp.zeros(size, self.rows.dtype))
        else:
            start = _Start(step, self._output_change(step))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.rows.params))
        side = self.game.resolve_side(start.output_change.size, parameters)
        if side == "primal":
            return self._primal(start)
        return self._dual(start, self._system(side))

    def _output_change(self, step: Tree) -> jax.Array:
        return flatten_outputs(self.rows.push_forward(step), self.rows.dtype)

    def _system(self, side: str) -> SampleSystem:
        if side == "dual":
            return DenseSystem(self.outputs, self.rows.gram_matrix(self.metric))
        tolerance = float(jnp.finfo(self.rows.dtype).eps) ** 0.75
        iterations = self.game.conjugate_gradient_steps
        return MatrixFreeSystem(self.outputs, self.rows, self.metric, iterations, tolerance)

    def _damping(self, largest: Scalar) -> Scalar:
        outputs = {name: value.astype(self.rows.dtype) for name, value in self.outputs.items()}
        loss = self.rows.objective.value(outputs)
        return self.game.damping.value(self.state.damping, largest, loss, self.state.step)

    def _bounded(self, acceleration: Tree, step: Tree) -> tuple[Tree, Scalar]:
        assert self.game.acceleration is not None
        kept, ratio = bounded_acceleration(acceleration, step, self.game.acceleration)
        return kept, ratio.astype(self.rows.dtype)

    def _with_linear(self, start: _Start, damping: Scalar) -> _Start:
        """d0 moved by `-M^-1 linear / lambda`.

        In F, `linear . d` and the proximal term are together the proximal term around the moved
        d0, but for a constant.
        """
        if self.linear is None:
            return start
        scaled = jax.tree.map(lambda g: -g / damping.astype(g.dtype), self.linear)
        change = self._in_metric(scaled)
        step = add_trees(start.step, change)
        return _Start(step, start.output_change + self._output_change(change))

    def _in_metric(self, covector: Tree) -> Tree:
        """`M^-1 covector`."""
        return covector if self.metric is None else jax.tree.map(jnp.divide, covector, self.metric)

    def _dual(self, start: _Start, system: SampleSystem) -> Direction:
        rows, objective, dtype = self.rows, self.rows.objective, self.rows.dtype
        shifted = shift_outputs(self.outputs, start.output_change)
        root = loss_derivatives(objective, shifted, dtype).root
        largest = system.largest_eigenvalue(root)
        damping = self._damping(largest)
        start = self._with_linear(start, damping)
        shifted = shift_outputs(self.outputs, start.output_change)
        # The root of squared losses is the same at all outputs, and so is the factorization.
        shared = system.solver(root, damping) if objective.is_squared else None

        def make_solver(root: Blocks) -> Solver:
            return shared or system.solver(root, damping)

        problem = SampleProblem(objective, shifted, system, damping, make_solver)
        found = problem.solve(self.game.newton_steps)
        change = self._in_metric(rows.pull_back(unflatten_outputs(found.multipliers, self.outputs)))
        moved = start.output_change + found.output_change
        step = add_trees(start.step, change)
        acceleration, ratio = None, jnp.zeros((), dtype)
        if self.game.acceleration is not None:
            predicted = shift_outputs(self.outputs, moved)
            y = acceleration_in_sample_space(rows, step, predicted, make_solver)
            pulled = rows.pull_back(unflatten_outputs(y, self.outputs))
            acceleration, ratio = self._bounded(self._in_metric(pulled), step)
        return Direction(
            step, moved, acceleration, ratio, damping, largest, found.solution, found.steps
        )

    def _primal(self, start: _Start) -> Direction:
        rows = self.rows
        flat = flatten_tree(rows.params if self.metric is None else self.metric, rows.dtype)
        metric = jnp.ones_like(flat) if self.metric is None else flat
        shifted = shift_outputs(self.outputs, start.output_change)
        curvature = rows.normal_matrix(
            loss_derivatives(rows.objective, shifted, rows.dtype).hessian
        )
        largest = ParameterProblem(rows, metric, shifted).largest_eigenvalue(curvature)
        damping = self._damping(largest)
        start = self._with_linear(start, damping)
        shifted = shift_outputs(self.outputs, start.output_change)
        problem = ParameterProblem(rows, metric, shifted)
        shared = problem.solver(curvature, damping) if rows.objective.is_squared else None

        def make_solver(hessian: Blocks) -> Solver:
            return shared or problem.solver(problem.curvature(hessian), damping)

        vector, moved, solution, count = problem.solve(make_solver, damping, self.game.newton_steps)

        def tree_of(vector: jax.Array) -> Tree:
            tree = problem.tree_of(vector)
            return jax.tree.map(lambda d, p: d.astype(p.dtype), tree, rows.params)

        step, moved = add_trees(start.step, tree_of(vector)), start.output_change + moved
        acceleration, ratio = None, jnp.zeros((), rows.dtype)
        if self.game.acceleration is not None:
            predicted = shift_outputs(self.outputs, moved)
            found = acceleration_in_parameter_space(rows, step, predicted, make_solver)
            acceleration, ratio = self._bounded(tree_of(found), step)
        return Direction(step, moved, acceleration, ratio, damping, largest, solution, count)
