"""One step of the implicit game: weights, weighted gradient, base step, judgement."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax.core import arguments
from gtddp_jax.core.alignment import check_alignment
from gtddp_jax.core.report import Observe, Report, common_figures
from gtddp_jax.core.safety import all_finite, choose, guarded_vdot, zero_unless
from gtddp_jax.core.types import AxisName, Batch, Count, Loss, Outputs, PerSample, Tree
from gtddp_jax.network import Network
from gtddp_jax.simultaneous.base_method import BaseMethod
from gtddp_jax.simultaneous.linearised import ByAutodiff, ByPlayers, Linearised
from gtddp_jax.simultaneous.order import Use, uses
from gtddp_jax.simultaneous.weights import WeightModel
from gtddp_jax.simultaneous.weights.base import Context, Prediction, whole_network
from gtddp_jax.terminal import Terminal
from gtddp_jax.terminal.solve import Bounds


class ImplicitState(NamedTuple):
    """State of `implicit`.

    Attributes:
        base: the base optimizer's state.
        weights: the weight model's state.
        step: int32, number of updates so far, skipped ones included.
        aux: what `apply_fn` returned beside the outputs in the last step that was taken.
        prediction: what the weight model knew in the last step.
        report: figures of the last step.
    """

    base: Tree
    weights: Tree
    step: Count
    aux: Tree
    prediction: Prediction
    report: Report


@dataclasses.dataclass(frozen=True)
class Game:
    """The options of `implicit`, checked; see there."""

    base: optax.GradientTransformationExtraArgs
    apply_fn: Callable[..., Any]
    loss: Loss
    model: WeightModel
    terminal: Terminal
    bounds: Bounds
    strength: float
    drift: bool
    every: int
    has_aux: bool
    axis_name: AxisName

    def __post_init__(self) -> None:
        if not callable(self.apply_fn) or not callable(self.loss):
            raise ValueError(
                "implicit: apply_fn and loss must be functions, apply_fn(params, inputs) -> "
                "outputs and loss(outputs, targets) -> [B]."
            )
        if not isinstance(self.terminal, Terminal):
            raise ValueError(
                f"implicit: terminal must come from gtddp_jax.terminal, got {self.terminal!r}."
            )
        if self.bounds is not None and not self.bounds[0] <= 1 <= self.bounds[1]:
            raise ValueError(f"implicit: bounds={self.bounds!r} must be (low <= 1, high >= 1).")
        if isinstance(self.strength, (int, float)) and not 0 <= self.strength <= 1:
            raise ValueError(f"implicit: strength={self.strength!r} must be in [0, 1].")
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"implicit: every={self.every!r} must be an int >= 1.")

    @property
    def plain(self) -> bool:
        """Whether the weights are 1 whatever happens."""
        return isinstance(self.strength, (int, float)) and self.strength == 0

    def linearise(self, params: Tree, inputs: Batch, targets: Batch) -> Linearised:
        """The network at its parameters and batch."""

        def loss_of(outputs: Outputs) -> PerSample:
            return self.loss(outputs, targets)

        owner = getattr(self.apply_fn, "__self__", None)
        shared = self.model.whole and not self.has_aux and not self.plain
        if isinstance(owner, Network) and shared:
            return ByPlayers(owner, inputs, loss_of, params, self.terminal, self.axis_name)
        return ByAutodiff(self._forward(inputs), loss_of, params, self.terminal, self.axis_name)

    def _forward(self, inputs: Batch) -> Callable[[Tree], tuple[Any, Any]]:
        def forward(params: Tree) -> tuple[Any, Any]:
            result = self.apply_fn(params, inputs)
            if not self.has_aux:
                return result, None
            if not isinstance(result, tuple) or len(result) != 2:
                raise ValueError(
                    "implicit(has_aux=True): apply_fn must return a pair (outputs, aux), got "
                    f"{type(result).__name__}."
                )
            return result

        return forward

    def context(
        self,
        linearised: Linearised,
        running: Tree,
        state: ImplicitState,
        params: Tree,
        batch: tuple[Batch, Batch],
        extra: dict[str, Any],
    ) -> Context:
        """What the weight model may look at."""
        inputs, targets = batch

        def order() -> list[Use]:
            forward = self._forward(inputs)
            return uses(lambda params: self.loss(forward(params)[0], targets), params)

        return Context(
            model=linearised,
            base=BaseMethod(self.base, state.base, params, running, extra, self.drift),
            bounds=self.bounds,
            step=state.step,
            loss=lambda outputs: self.loss(outputs, targets),
            order=functools.cache(order),
        )

    def weights(self, context: Context, state: ImplicitState) -> tuple[PerSample, Tree, Prediction]:
        """W [B], the weight model's next state, its report."""

        def asked() -> tuple[PerSample, Tree, Prediction]:
            full, after, prediction = self.model.weights(context, state.weights)
            return 1 + self.strength * (full - 1), after, prediction

        if self.every == 1:
            return asked()
        rest = (context.model.ones, state.weights, state.prediction)
        return jax.lax.cond(state.step % self.every == 0, asked, lambda: rest)

    def update(
        self,
        updates: Tree,
        state: ImplicitState,
        params: Tree,
        batch: Any,
        extra: dict[str, Any],
        observe: Observe | None = None,
    ) -> tuple[Tree, ImplicitState]:
        """One step, see `optax.GradientTransformationExtraArgs`."""
        arguments.require("implicit", params=params, batch=batch)
        inputs, targets = arguments.split_batch("implicit", batch)
        running = jax.tree.map(jnp.zeros_like, params) if updates is None else updates
        linearised = self.linearise(params, inputs, targets)
        check_alignment(self.loss, linearised.expansion.line.outputs, targets)
        context = self.context(linearised, running, state, params, (inputs, targets), extra)
        if self.plain:
            w, model_state, prediction = linearised.ones, state.weights, whole_network()
        else:
            w, model_state, prediction = self.weights(context, state)
        if observe is not None:
            observe(w[None])
        q = linearised.gradient(w)
        step, _ = context.base.step(q)
        if not self.plain:
            model_state = self.model.learn(context, model_state, q)
        value = linearised.expansion.line.value
        # Finite squares of the gradient and a finite step leave no room for a new state that is not
        # finite: one product of arrays that exist already, instead of sums over it. The old one is
        # looked at, because with a second moment of infinity a step is zero. Scalars may be
        # infinite: a schedule that has seen no loss yet remembers its best so.
        old = [leaf for leaf in jax.tree.leaves(state.base) if jnp.ndim(leaf)]
        first_order = guarded_vdot(q, step, context.base.total(q), riders=(params, old))
        ok = linearised.samples.all(all_finite(value, w, first_order, model_state, linearised.aux))
        report = common_figures(
            state.report,
            linearised.samples,
            value,
            w[None],
            predicted=first_order,
            skipped=~ok,
            gradient=q,
            running=running,
        )
        return zero_unless(ok, step), ImplicitState(
            base=context.base.state_after(ok, q),
            weights=choose(ok, model_state, state.weights),
            step=state.step + 1,
            aux=choose(ok, linearised.aux, state.aux) if self.has_aux else state.aux,
            prediction=prediction,
            report=report,
        )
