"""Where the losses of a step come from: a function of losses, or a model, a loss and a batch."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

from typing_extensions import override

from gtddp_jax.core import validation
from gtddp_jax.core.loss_pairing import check_loss_pairing
from gtddp_jax.core.types import AxisName, Batch, Loss, Number, Outputs, PerSample, Tree
from gtddp_jax.implicit.linearized_losses import LinearizedLosses
from gtddp_jax.implicit.read_losses import ReadLosses
from gtddp_jax.losses.losses import Losses
from gtddp_jax.losses.split_losses import SplitLosses
from gtddp_jax.network import Network
from gtddp_jax.network.training_scope import training_scope
from gtddp_jax.terminal import TerminalModel

Model: TypeAlias = Network | Callable[..., Outputs]
"""A network, or `apply_fn(params, inputs) -> outputs`, with `has_aux` a pair `(outputs, aux)`."""

DROPOUT_IN_NETWORK = (
    "implicit: the network has nn.Dropout, which needs a random key in every step. Pass a function "
    "of losses instead of the network, tx.update(None, state, params, losses=...), that calls "
    'net.apply(params, x, train=True, rngs={"dropout": key}).'
)
BATCH_NORM_IN_NETWORK = (
    "implicit: the network has nn.BatchNorm, whose running statistics change in every step. Pass "
    "a function of losses instead of the network, tx.update(None, state, params, losses=...), that "
    "calls net.apply(params, x, batch_stats=batch_stats, train=True) and returns the statistics as "
    "aux."
)
FORGOTTEN_AUX = (
    "If apply_fn returns (outputs, aux), pass implicit(..., has_aux=True, aux=...) with an initial "
    "value of aux. "
)
MODEL_ADVICE = (
    "implicit: pass a gtddp_jax.Network or a function apply_fn(params, inputs) -> outputs, and a "
    "function loss(outputs, targets) -> [B]; or neither, and a function of losses in every step: "
    "tx.update(None, state, params, losses=lambda params: losses(params, batch))."
)


class StepLosses(abc.ABC):
    """The losses of one step, before they are differentiated."""

    @abc.abstractmethod
    def linearize(
        self,
        params: Tree,
        terminal: TerminalModel,
        axis_name: AxisName,
        *,
        reads_model: bool,
    ) -> LinearizedLosses:
        """The losses at the parameters, checked.

        Args:
            params: the parameters.
            terminal: the terminal model.
            axis_name: the mapped axis over devices.
            reads_model: whether predictions are made from the adjoints of the model's reads.
        """

    def regularizer_and_grad(self, params: Tree) -> tuple[Number, Tree | None]:
        """The value and the gradient of a regularizer; no gradient without one."""
        del params
        return 0.0, None


@dataclasses.dataclass
class LossesFunction(StepLosses):
    """`losses(params) -> Losses`."""

    losses_fn: Callable[[Tree], Losses]

    @override
    def linearize(
        self,
        params: Tree,
        terminal: TerminalModel,
        axis_name: AxisName,
        *,
        reads_model: bool,
    ) -> LinearizedLosses:
        self._split = SplitLosses(self._call, axis_name)
        return (ReadLosses if reads_model else LinearizedLosses)(
            self._split.forward, self._split.loss, params, terminal, axis_name
        )

    def _call(self, params: Tree) -> Losses:
        # Lets a network refuse a call that would silently train without dropout.
        with training_scope("implicit"):
            return self.losses_fn(params)

    @override
    def regularizer_and_grad(self, params: Tree) -> tuple[Number, Tree | None]:
        return self._split.regularizer_and_grad(params)


@dataclasses.dataclass(frozen=True)
class ModelAndLoss(StepLosses):
    """`apply_fn(params, inputs)`, `loss(outputs, targets)`, and one batch."""

    model: Model
    loss: Loss
    inputs: Any
    targets: Batch
    has_aux: bool

    @override
    def linearize(
        self,
        params: Tree,
        terminal: TerminalModel,
        axis_name: AxisName,
        *,
        reads_model: bool,
    ) -> LinearizedLosses:
        losses = (ReadLosses if reads_model else LinearizedLosses)(
            self._apply_model, self._loss_of_outputs, params, terminal, axis_name
        )
        check_loss_pairing(self.loss, losses.outputs, self.targets)
        return losses

    def _loss_of_outputs(self, outputs: Outputs) -> PerSample:
        advice = "" if self.has_aux else FORGOTTEN_AUX
        return validation.call_loss("implicit", self.loss, outputs, self.targets, advice)

    def _apply_model(self, params: Tree) -> tuple[Outputs, Tree | None]:
        """The model on the batch: parameters -> (outputs, aux)."""
        apply_fn: Any = self.model.apply if isinstance(self.model, Network) else self.model
        with training_scope("implicit"):
            result = _call_model(apply_fn, params, self.inputs)
        if not self.has_aux:
            return result, None
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError(
                "implicit(has_aux=True): apply_fn must return a pair (outputs, aux), got "
                f"{type(result).__name__}."
            )
        return result


def check_model(model: object, loss: object) -> None:
    """Raises unless a model and a loss are given, or neither."""
    if model is None and loss is None:
        return
    is_model = isinstance(model, Network) or callable(model)
    if not is_model or not callable(loss):
        raise ValueError(MODEL_ADVICE)
    if isinstance(model, Network) and model.rng_collections:
        raise ValueError(DROPOUT_IN_NETWORK)
    if isinstance(model, Network) and model.has_batch_stats:
        raise ValueError(BATCH_NORM_IN_NETWORK)


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
