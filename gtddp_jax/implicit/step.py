"""One step of the implicit game: sample weights, weighted gradient, step of the base, checks."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
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
from gtddp_jax.core.safety import all_finite, guarded_vdot, tree_where, zeros_unless
from gtddp_jax.core.types import AxisName, Count, Loss, PerSample, Tree
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.implicit.linearized_losses import LinearizedLosses
from gtddp_jax.implicit.step_losses import Model, StepLosses, check_model
from gtddp_jax.implicit.weighting.base import (
    Prediction,
    SampleWeighting,
    WeightingContext,
    whole_network_prediction,
)
from gtddp_jax.terminal import TerminalModel
from gtddp_jax.terminal.first_order import FirstOrder
from gtddp_jax.terminal.scalar_equation import Bounds
from gtddp_jax.tracing.parameter_costs import ParameterCost, parameter_costs


class ImplicitState(NamedTuple):
    """State of `implicit`.

    Attributes:
        base: the base optimizer's state.
        weighting: the sample weighting's state.
        step: int32, number of updates so far, skipped ones included.
        aux: what the model returned beside the outputs in the last step that was not skipped.
        prediction: what the weighting knew in the last step.
        report: diagnostics of the last step.
    """

    base: Tree
    weighting: Tree
    step: Count
    aux: Tree | None
    prediction: Prediction
    report: Report

    def __repr__(self) -> str:
        return f"ImplicitState(step {short_text(self.step)}, {report_line(self.report)})"


@dataclasses.dataclass(frozen=True)
class ImplicitGame:
    """The options of `implicit`, checked; `implicit` documents each."""

    base: OptaxBase
    model: Model | None
    loss: Loss | None
    weighting: SampleWeighting[Any]
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
            weighting=self.weighting.init_state(params),
            step=jnp.zeros((), jnp.int32),
            aux=aux,
            prediction=whole_network_prediction(),
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
            # Sharing the adjoints only pays off for sums over the whole network.
            share_adjoints=self.weighting.needs_all_players and not self.is_base_alone,
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
        context = self._weighting_context(losses, base, state.step, step_losses)
        w, weighting_state, prediction = self._sample_weights(context, state.weighting)
        # One row, as in the sequential game, which has one per stage.
        if observe is not None:
            observe(w[None])
        q = losses.weighted_gradient(w)
        # The next state is dropped here: `state_after` computes it once the step has been checked.
        base_step, _ = base.compute_update(q)
        if not self.is_base_alone:
            weighting_state = self.weighting.update_state(context, weighting_state, q)
        # If the squares of the gradient and the step are finite, so is the base's new state. One
        # pass over arrays that exist already checks that, instead of sums over the new state. The
        # old state is checked too, because a second moment of infinity gives a step of zero. Its
        # scalars are exempt: a schedule that has seen no loss yet keeps its best as infinity.
        old_arrays = [leaf for leaf in jax.tree.leaves(state.base) if jnp.ndim(leaf)]
        predicted_change = guarded_vdot(
            q, base_step, base.total_gradient(q), checked=(params, old_arrays)
        )
        ok = losses.samples.all(
            all_finite(exact_loss.value, loss, w, predicted_change, weighting_state, aux)
        )
        report = shared_report_fields(
            state.report,
            losses.counted,
            loss,
            w[None],
            predicted=predicted_change,
            skipped=~ok,
            gradient=q,
            running_gradient=total_running_gradient(updates, None, params),
            samples_coupled=losses.expansion.samples_coupled,
        )
        return zeros_unless(ok, base_step), ImplicitState(
            base=base.state_after(ok, q),
            weighting=tree_where(ok, weighting_state, state.weighting),
            step=state.step + 1,
            aux=tree_where(ok, aux, state_aux) if self.has_aux else state_aux,
            prediction=prediction,
            report=report,
        )

    def _weighting_context(
        self,
        losses: LinearizedLosses,
        base: BaseOptimizer,
        step: Count,
        step_losses: StepLosses,
    ) -> WeightingContext:
        """What the weighting may use."""

        def trace_parameter_costs() -> Sequence[ParameterCost]:
            return parameter_costs(step_losses.per_sample, base.params)

        # Cached, because a weighting asks when it computes weights and when it updates its state.
        return WeightingContext(
            losses, base, self.bounds, step, functools.cache(trace_parameter_costs)
        )

    def _sample_weights(
        self, context: WeightingContext, state: Tree
    ) -> tuple[PerSample, Tree, Prediction]:
        """The weights w [B], the weighting's next state, and its prediction."""
        if self.is_base_alone:
            return context.losses.uniform_weights, state, whole_network_prediction()
        try:
            full_weights, state, prediction = self.weighting.compute_weights(context, state)
        except Exception:
            expected = jax.eval_shape(self.weighting.init_state, context.base.params)
            validation.check_state_structure("implicit", state, expected)
            raise
        return 1 + self.strength * (full_weights - 1), state, prediction
