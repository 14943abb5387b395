"""One step of the implicit game: sample weights, weighted gradient, step of the base, checks."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gtddp_jax.core import validation
from gtddp_jax.core.loss_pairing import check_loss_pairing
from gtddp_jax.core.optax_base import OptaxBase
from gtddp_jax.core.report import Report, SampleWeightObserver, empty_report, shared_report_fields
from gtddp_jax.core.safety import all_finite, guarded_vdot, tree_where, zeros_unless
from gtddp_jax.core.types import AxisName, Batch, Count, Loss, Outputs, PerSample, Tree
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.implicit.linearized_losses import AutodiffLosses, LinearizedLosses, PlayerLosses
from gtddp_jax.implicit.weighting.base import (
    Prediction,
    SampleWeighting,
    WeightingContext,
    whole_network_prediction,
)
from gtddp_jax.network import Network
from gtddp_jax.network.training_scope import training_scope
from gtddp_jax.terminal import TerminalModel
from gtddp_jax.terminal.first_order import FirstOrder
from gtddp_jax.terminal.scalar_equation import Bounds
from gtddp_jax.tracing.parameter_costs import ParameterCost, parameter_costs

Model: TypeAlias = Network | Callable[..., Outputs]
"""A network, or `apply_fn(params, inputs) -> outputs`, with `has_aux` a pair `(outputs, aux)`."""

DROPOUT_IN_NETWORK = (
    "implicit: the network has nn.Dropout, which needs a random key in every step. Pass the key "
    "with the inputs, batch=((x, key), targets), and instead of the network a function that calls "
    'net.apply(params, x, train=True, rngs={"dropout": key}).'
)
BATCH_NORM_IN_NETWORK = (
    "implicit: the network has nn.BatchNorm, whose running statistics change in every step. Pass "
    "the statistics with the inputs, batch=((x, batch_stats), targets), instead of the network a "
    "function that calls net.apply(params, x, batch_stats=batch_stats, train=True), has_aux=True "
    'and aux=variables["batch_stats"].'
)

FORGOTTEN_AUX = (
    "If apply_fn returns (outputs, aux), pass implicit(..., has_aux=True, aux=...) with an initial "
    "value of aux. "
)


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


@dataclasses.dataclass(frozen=True)
class ImplicitGame:
    """The options of `implicit`, checked; `implicit` documents each."""

    base: OptaxBase
    model: Model
    loss: Loss
    weighting: SampleWeighting[Any]
    terminal: TerminalModel
    bounds: Bounds
    strength: float
    predict_momentum: bool
    has_aux: bool
    axis_name: AxisName

    def __post_init__(self) -> None:
        is_model = isinstance(self.model, Network) or callable(self.model)
        if not is_model or not callable(self.loss):
            raise ValueError(
                "implicit: pass a gtddp_jax.Network or a function apply_fn(params, inputs) -> "
                "outputs, and a function loss(outputs, targets) -> [B]."
            )
        if isinstance(self.model, Network) and self.model.rng_collections:
            raise ValueError(DROPOUT_IN_NETWORK)
        if isinstance(self.model, Network) and self.model.has_batch_stats:
            raise ValueError(BATCH_NORM_IN_NETWORK)
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
        batch: tuple[Batch, Batch],
        extra_args: Mapping[str, object],
        observe: SampleWeightObserver | None = None,
    ) -> tuple[Tree, ImplicitState]:
        """Take one step; see `optax.GradientTransformationExtraArgs`."""
        inputs, targets = validation.split_batch("implicit", batch)
        running_gradient = jax.tree.map(jnp.zeros_like, params) if updates is None else updates
        losses = self._linearize_losses(params, inputs, targets)
        exact_loss = losses.expansion.exact_loss
        # Without `has_aux` both are None, which JAX takes for an empty tree.
        aux: Any = losses.aux
        state_aux: Any = state.aux
        if self.has_aux:
            validation.check_aux(state_aux, aux)
            aux = losses.samples.mean_floats(aux)
        check_loss_pairing(self.loss, losses.outputs, targets)
        base = BaseOptimizer(
            self.base,
            state.base,
            params,
            running_gradient,
            losses.samples.mean(exact_loss.value),
            extra_args,
            self.predict_momentum,
        )
        context = self._weighting_context(losses, base, state.step, inputs, targets)
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
            all_finite(exact_loss.value, w, predicted_change, weighting_state, aux)
        )
        report = shared_report_fields(
            state.report,
            losses.counted,
            exact_loss.value,
            w[None],
            predicted=predicted_change,
            skipped=~ok,
            gradient=q,
            running_gradient=running_gradient,
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

    def _linearize_losses(self, params: Tree, inputs: Any, targets: Batch) -> LinearizedLosses:
        """The losses of a batch at the parameters."""

        def loss_of_outputs(outputs: Outputs) -> PerSample:
            advice = "" if self.has_aux else FORGOTTEN_AUX
            return validation.call_loss("implicit", self.loss, outputs, targets, advice)

        # Sharing the adjoints only pays off for sums over the whole network.
        share_adjoints = (
            self.weighting.needs_all_players and not self.has_aux and not self.is_base_alone
        )
        # The base alone asks for first derivatives only.
        terminal = FirstOrder() if self.is_base_alone else self.terminal
        if isinstance(self.model, Network) and share_adjoints:
            return PlayerLosses(
                self.model, inputs, loss_of_outputs, params, terminal, self.axis_name
            )
        apply_model = self._forward_fn(inputs)
        return AutodiffLosses(apply_model, loss_of_outputs, params, terminal, self.axis_name)

    def _forward_fn(self, inputs: Batch) -> Callable[[Tree], tuple[Outputs, Tree | None]]:
        """The model on a batch: parameters -> (outputs, aux)."""
        apply_fn: Any = self.model.apply if isinstance(self.model, Network) else self.model

        def apply_model(params: Tree) -> tuple[Outputs, Tree | None]:
            # Lets a network refuse a call that would silently train without dropout.
            with training_scope("implicit"):
                result = _call_model(apply_fn, params, inputs)
            if not self.has_aux:
                return result, None
            if not isinstance(result, tuple) or len(result) != 2:
                raise ValueError(
                    "implicit(has_aux=True): apply_fn must return a pair (outputs, aux), got "
                    f"{type(result).__name__}."
                )
            return result

        return apply_model

    def _weighting_context(
        self,
        losses: LinearizedLosses,
        base: BaseOptimizer,
        step: Count,
        inputs: Batch,
        targets: Batch,
    ) -> WeightingContext:
        """What the weighting may use."""

        def trace_parameter_costs() -> Sequence[ParameterCost]:
            apply_model = self._forward_fn(inputs)
            return parameter_costs(
                lambda params: self.loss(apply_model(params)[0], targets), base.params
            )

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


def _call_model(apply_fn: Any, params: Tree, inputs: Batch) -> Any:
    """The result of the model; an error of nnx says what to do."""
    try:
        return apply_fn(params, inputs)
    except Exception as error:
        # Found by name, because not every user has Flax.
        if type(error).__name__ != "TraceContextError":
            raise
        raise ValueError(
            "implicit: apply_fn changes nnx variables that were made outside of it. Copy them: "
            "nnx.merge(graph, params, rest, copy=True), and return the new ones as aux: "
            "(outputs, nnx.state(model, nnx.BatchStat))."
        ) from error
