"""One step of the implicit game: sample weights, weighted gradient, step of the base, checks."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from gtddp_jax.core import validation
from gtddp_jax.core.one_line import short_text
from gtddp_jax.core.optax_base import OptaxBase
from gtddp_jax.core.report import (
    LossAndAux,
    Report,
    SampleWeightObserver,
    StepObserver,
    empty_report,
    report_line,
    shared_report_fields,
)
from gtddp_jax.core.running_cost import total_running_gradient
from gtddp_jax.core.safety import all_finite, squares_finite, tree_where
from gtddp_jax.core.types import AxisName, Count, Loss, PerSample, Scalar, Tree
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.implicit.guarded_step import take_guarded_step
from gtddp_jax.implicit.linearized_losses import LinearizedLosses
from gtddp_jax.implicit.step_losses import Model, StepLosses, check_model
from gtddp_jax.implicit.weighting.base import SampleWeighting, WeightingContext
from gtddp_jax.terminal import TerminalModel
from gtddp_jax.terminal.first_order import FirstOrder
from gtddp_jax.terminal.scalar_equation import Bounds


class ImplicitState(NamedTuple):
    """State of `implicit`.

    Attributes:
        base: the base optimizer's state.
        step: int32, number of updates so far, skipped ones included.
        aux: what the model returned beside the outputs in the last step that was not skipped.
        report: diagnostics of the last step.
    """

    base: Tree
    step: Count
    aux: Tree | None
    report: Report

    def __repr__(self) -> str:
        return f"ImplicitState(step {short_text(self.step)}, {report_line(self.report)})"


@dataclasses.dataclass(frozen=True)
class ImplicitGame:
    """The options of `implicit`, checked; `implicit` documents each."""

    base: OptaxBase
    model: Model | None
    loss: Loss | None
    weighting: SampleWeighting
    terminal: TerminalModel
    bounds: Bounds
    strength: float
    predict_momentum: bool
    has_aux: bool
    axis_name: AxisName

    def __post_init__(self) -> None:
        check_model(self.model, self.loss)
        if not isinstance(self.terminal, TerminalModel):
            raise ValueError(
                f"implicit: terminal must come from gtddp_jax.terminal, got {self.terminal!r}."
            )
        if self.bounds is not None and not self.bounds[0] <= 1 <= self.bounds[1]:
            raise ValueError(f"implicit: bounds={self.bounds!r} must be (low <= 1, high >= 1).")
        # A traced strength cannot be checked here.
        if isinstance(self.strength, (int, float)) and not 0 <= self.strength <= 1:
            raise ValueError(f"implicit: strength={self.strength!r} must be in [0, 1].")

    @property
    def is_base_alone(self) -> bool:
        """Whether all weights are 1 by construction."""
        # A traced strength (optax.inject_hyperparams) may be anything.
        return isinstance(self.strength, (int, float)) and self.strength == 0

    def init_state(self, params: Tree, aux: Tree | None) -> ImplicitState:
        """Return the state before the first step."""
        return ImplicitState(
            base=self.base.init(params),
            step=jnp.zeros((), jnp.int32),
            aux=aux,
            report=empty_report(1, has_open_gain=False),
        )

    def take_step(
        self,
        updates: Tree,
        state: ImplicitState,
        params: Tree,
        step_losses: StepLosses,
        extra_args: Mapping[str, object],
        observe: SampleWeightObserver | None = None,
        observe_step: StepObserver | None = None,
    ) -> tuple[Tree, ImplicitState]:
        """Take one step; see `optax.GradientTransformationExtraArgs`."""
        losses = step_losses.linearize(
            params,
            # The base alone asks for first derivatives only.
            FirstOrder() if self.is_base_alone else self.terminal,
            self.axis_name,
            reads_model=self.weighting.reads_model and not self.is_base_alone,
        )
        exact_loss = losses.expansion.exact_loss
        regularizer, regularizer_gradient = step_losses.regularizer_and_grad(params)
        loss = losses.samples.mean(exact_loss.value) + regularizer
        if observe_step is not None:
            observe_step(LossAndAux(loss, losses.aux))
        # Without `has_aux` both are None, which JAX takes for an empty tree.
        aux: Any = None
        state_aux: Any = state.aux
        if self.has_aux:
            aux = losses.aux
            validation.check_aux(state_aux, aux)
            aux = losses.samples.mean_floats(aux)
        base = BaseOptimizer(
            self.base,
            state.base,
            params,
            total_running_gradient(updates, regularizer_gradient, params),
            loss,
            extra_args,
            self.predict_momentum,
        )
        w, predicted_change = self._sample_weights(losses, base, state.step)
        # One row, as in the sequential game, which has one per stage.
        if observe is not None:
            observe(w[None])
        q = losses.weighted_gradient(w)
        gradient = base.total_gradient(q)
        has_running_cost = updates is not None or regularizer_gradient is not None
        bounds = {} if has_running_cost else losses.gradient_bounds(w)
        is_finite = all_finite(exact_loss.value, loss, w, aux) & squares_finite(gradient, bounds)
        taken = take_guarded_step(base, q, losses.samples.all(is_finite))
        report = shared_report_fields(
            state.report,
            losses.counted,
            loss,
            w[None],
            predicted=predicted_change,
            skipped=~taken.ok,
            gradient=q,
            running_gradient=total_running_gradient(updates, None, params),
            samples_coupled=losses.expansion.samples_coupled,
        )
        return taken.update, ImplicitState(
            base=taken.state,
            step=state.step + 1,
            aux=tree_where(taken.ok, aux, state_aux) if self.has_aux else state_aux,
            report=report,
        )

    def _sample_weights(
        self, losses: LinearizedLosses, base: BaseOptimizer, step: Count
    ) -> tuple[PerSample, Scalar]:
        """The weights w [B], and the change of the mean loss that they predict."""
        if self.is_base_alone or losses.expansion.is_linear:
            return losses.uniform_weights, jnp.zeros(())
        found = self.weighting.predict_weights(WeightingContext(losses, base, self.bounds, step))
        w = 1 + self.strength * (found.weights - 1)
        # q(w) . u(q(w)), the change to first order that the step makes to the weighted losses.
        return w, losses.samples.mean(w * found.shift(w))
