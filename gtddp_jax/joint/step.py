"""One step of the joint game: direction, length, report, and the next state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core.joint_report import JointReport
from gtddp_jax.core.report import LossAndAux, StepObserver
from gtddp_jax.core.safety import all_finite, tree_where, zeros_unless
from gtddp_jax.core.trees import add_trees, tree_vdot
from gtddp_jax.core.types import Flag, Number, Scalar, Tree
from gtddp_jax.joint.direction import Direction, DirectionFinder
from gtddp_jax.joint.game import JointGame, JointState
from gtddp_jax.joint.loss_blocks import loss_derivatives
from gtddp_jax.joint.objective import Objective, TermOutputs
from gtddp_jax.joint.rows import OutputRows, unflatten_outputs
from gtddp_jax.joint.sample_space import shift_outputs


class JointStep:
    """One step, from the parameters and the objective of one batch.

    Args:
        game: the options.
        state: the state before the step.
        params: the parameters.
        updates: the gradient of a running cost, or None.
        objective: the objective of the batch.
    """

    def __init__(
        self,
        game: JointGame,
        state: JointState,
        params: Tree,
        updates: Tree | None,
        objective: Objective,
    ) -> None:
        self.game: JointGame = game
        self.state: JointState = state
        self.params: Tree = params
        self.updates: Tree | None = updates
        self.objective: Objective = objective
        self.outputs: TermOutputs = objective.outputs(params)
        check_outputs(self.outputs)
        self.dtype: Any = game.sum_dtype()
        widths = {name: value.shape[1] for name, value in self.outputs.items()}
        self.rows: OutputRows = OutputRows(objective, params, widths, game.chunk, self.dtype)
        regularizer, regularizer_gradient = objective.regularizer_and_grad(params)
        self.regularizer: Number = regularizer
        self.linear: Tree | None = add_trees(updates, regularizer_gradient)

    def take(
        self, validation: Objective | None, observe: StepObserver | None, aux: Tree | None
    ) -> tuple[Tree, JointState]:
        """The update and the next state.

        Args:
            validation: the objective of other samples, on which the gain ratio is judged; or None.
            observe: receives the loss and aux.
            aux: what the function of losses returned beside the losses.
        """
        state, params = self.state, self.params
        losses = self.objective.losses(self.outputs)
        metric, metric_state = self._metric()
        found = DirectionFinder(
            self.game, self.rows, self.outputs, state, metric, self.linear
        ).find()
        start = self.value_along(found, jnp.zeros((), self.dtype))
        norm = optax.tree.norm(found.step).astype(self.dtype)
        # For lengths up to 1 the path is no longer than that.
        longest = norm
        if found.acceleration is not None:
            longest += 0.5 * optax.tree.norm(found.acceleration).astype(self.dtype)
        length, remembered = self.game.step_rule.step_length(
            lambda length: self.value_along(found, length), start, longest, state.step
        )
        predicted = self._predicted_change(found, length)
        actual = self.value_along(found, length) - start
        # A step that no length makes useful was predicted badly, although nothing happens.
        is_rejected = (length == 0) & (norm > 0)
        gain_ratio = jnp.where(is_rejected, 0.0, _ratio(actual, predicted))
        if validation is not None:
            gain_ratio = _validation_gain(validation, params, found, length)
        if observe is not None:
            observe(LossAndAux(start, aux))
        coupled = self.objective.samples_coupled(params, self.outputs)
        move = path_along(found, length)
        ok = ~coupled & all_finite(start, found.step, length, norm, params, metric_state)
        report = JointReport(
            loss=start,
            term_losses=losses,
            predicted_change=predicted,
            actual_change=actual,
            gain_ratio=gain_ratio,
            damping=found.damping,
            largest_eigenvalue=found.largest,
            step_length=length,
            step_norm=optax.tree.norm(move).astype(self.dtype),
            acceleration_ratio=found.acceleration_ratio,
            condition=found.solution.condition,
            linear_residual=found.solution.residual,
            rank=found.solution.rank,
            method=found.solution.method,
            newton_steps=found.newton_steps,
            skipped=~ok,
            skipped_steps=state.report.skipped_steps + (~ok).astype(jnp.int32),
            samples_coupled=coupled,
        )
        return zeros_unless(ok, move), self._next_state(
            found, remembered, gain_ratio, metric_state, ok, report
        )

    def _next_state(
        self,
        found: Direction,
        remembered: Scalar,
        gain_ratio: Scalar,
        metric_state: Tree,
        ok: Flag,
        report: JointReport,
    ) -> JointState:
        state, game = self.state, self.game
        previous = path_along(found, remembered)
        adapted = game.damping.next_state(state.damping, found.damping, gain_ratio)
        metric_state = game.metric.remember(metric_state, found.step)
        return JointState(
            step=state.step + 1,
            previous_step=(
                tree_where(ok, previous, state.previous_step) if game.has_momentum else ()
            ),
            # A step that overflowed needs more damping; bad samples say nothing about it.
            damping=jnp.where(
                jnp.isfinite(report.loss) & ~report.samples_coupled,
                adapted.astype(jnp.float32),
                state.damping,
            ),
            metric=tree_where(ok, metric_state, state.metric),
            report=jax.tree.map(_as_reported, report),
        )

    def value_along(self, found: Direction, length: Scalar) -> Scalar:
        """The objective with all further costs, at a length along the path."""
        move = path_along(found, length)
        moved = _moved(self.params, move)
        value = self.objective.value_at(moved).astype(self.dtype)
        if self.linear is None:
            return value + self.regularizer
        value = value + self.objective.regularizer_and_grad(moved)[0]
        if self.updates is not None:
            value = value + tree_vdot(self.updates, move)
        return value.astype(self.dtype)

    def _predicted_change(self, found: Direction, length: Scalar) -> Scalar:
        """What linear outputs and linear further costs predict."""
        linear = shift_outputs(self.outputs, length * found.output_change)
        outputs = {name: value.astype(self.dtype) for name, value in self.outputs.items()}
        change = self.objective.value(linear) - self.objective.value(outputs)
        if self.linear is not None:
            change = change + length * tree_vdot(self.linear, found.step)
        return change

    def _metric(self) -> tuple[Tree | None, Tree]:
        rule = self.game.metric
        if not rule.needs_gradient:
            return rule.update(None, self.state.metric, self.state.step)
        found = loss_derivatives(self.objective, self.outputs, self.dtype)
        gradient = self.rows.pull_back(unflatten_outputs(found.gradient, self.outputs))
        gradient = add_trees(gradient, self.linear)
        return rule.update(gradient, self.state.metric, self.state.step)


def path_along(found: Direction, length: Scalar) -> Tree:
    """`length d + length^2 a / 2`, in the dtypes of the parameters."""
    if found.acceleration is None:
        return jax.tree.map(lambda d: (length * d).astype(d.dtype), found.step)
    bend = 0.5 * length**2
    return jax.tree.map(
        lambda d, a: (length * d + bend * a).astype(d.dtype), found.step, found.acceleration
    )


def check_outputs(outputs: TermOutputs) -> None:
    """Raises unless all outputs are real floating-point numbers, and some are there."""
    for name, value in outputs.items():
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"joint: the residual of term {name!r} returned {value.dtype}; real floating-point "
                "numbers are needed. For complex residuals return real and imaginary parts."
            )
        if value.size == 0:
            raise ValueError(
                f"joint: the residual of term {name!r} is empty; it must return a number or an "
                "array with at least one."
            )


def _validation_gain(
    objective: Objective, params: Tree, found: Direction, length: Scalar
) -> Scalar:
    """The gain ratio on samples that did not make the step."""
    direction = jax.tree.map(lambda d, p: (length * d).astype(p.dtype), found.step, params)
    local = objective.local_copy((params, direction))
    before, change = jax.jvp(objective.local_outputs, (local[0],), (local[1],))
    linear = objective.gather(jax.tree.map(jnp.add, before, change))
    start = objective.value(objective.gather(before))
    predicted = objective.value(linear) - start
    moved = _moved(params, path_along(found, length))
    return _ratio(objective.value_at(moved) - start, predicted)


def _moved(params: Tree, move: Tree) -> Tree:
    return jax.tree.map(lambda p, d: p + d.astype(p.dtype), params, move)


def _ratio(actual: Scalar, predicted: Scalar) -> Scalar:
    """Actual / predicted change; 1 where nothing was predicted and nothing happened."""
    known = predicted != 0
    ratio = actual / jnp.where(known, predicted, 1.0)
    return jnp.where(known, ratio, jnp.where(actual == 0, 1.0, -jnp.inf))


def _as_reported(value: jax.Array) -> jax.Array:
    return value.astype(jnp.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value
