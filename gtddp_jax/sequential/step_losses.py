"""Where the losses of a step come from: a function of losses, or a loss and a batch."""

import abc
from collections.abc import Callable
from typing import Any

import jax
from typing_extensions import override

from gtddp_jax.core import validation
from gtddp_jax.core.jaxprs import reads_argument
from gtddp_jax.core.loss_pairing import check_captured_pairing, check_loss_pairing
from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Batch, Loss, Number, Outputs, PerSample, Tree
from gtddp_jax.losses.losses import Losses, call_losses
from gtddp_jax.losses.per_sample import masked_values
from gtddp_jax.losses.split_losses import HIDDEN_PARAMS
from gtddp_jax.network.intercepted_calls import NetworkCall, intercept_calls
from gtddp_jax.network.protocol import NetworkPass, StagedNetwork

APPLY_CALL = (
    "losses(params, ...) must call net.apply(params, x, train=True, ...) of the network of the "
    "game once, with the parameters that it receives"
)


class NetworkLosses(abc.ABC):
    """The batch of one step, and the losses of the network's outputs.

    Attributes:
        inputs: the inputs of the network, [B, ...].
        batch_stats: the network's state beside its parameters.
        rngs: random keys by collection, or None.
    """

    inputs: Any
    batch_stats: Tree
    rngs: Any

    def device_keys(self, samples: SampleReductions) -> Any:
        """The random keys of this device."""
        del samples
        return self.rngs

    @abc.abstractmethod
    def per_sample(self, outputs: Outputs) -> PerSample:
        """The losses [B] of the network's outputs."""

    @abc.abstractmethod
    def check(self, network_pass: NetworkPass) -> None:
        """Raises if the losses cannot be played, where their shapes are valid."""

    def regularizer_and_grad(self, network_pass: NetworkPass) -> tuple[Number, Tree | None]:
        """The value and the gradient of a cost of the parameters; no gradient without one."""
        del network_pass
        return 0.0, None

    def aux(self, network_pass: NetworkPass) -> Tree | None:
        """What the user wants back."""
        del network_pass
        return None


class LossOnBatch(NetworkLosses):
    """`loss(outputs, targets)` and `batch=(inputs, targets)`."""

    def __init__(self, loss: Loss, batch: object, batch_stats: Tree, rngs: Any) -> None:
        self._loss = loss
        inputs, targets = validation.split_batch("gtddp", batch)
        self.inputs: Any = inputs
        self._targets: Batch = targets
        self.batch_stats: Tree = batch_stats
        self.rngs: Any = rngs

    @override
    def device_keys(self, samples: SampleReductions) -> Any:
        return samples.keys_per_device(self.rngs)

    @override
    def per_sample(self, outputs: Outputs) -> PerSample:
        return validation.call_loss("gtddp", self._loss, outputs, self._targets)

    @override
    def check(self, network_pass: NetworkPass) -> None:
        check_loss_pairing(self._loss, network_pass.outputs, self._targets)


class LossesThroughNetwork(NetworkLosses):
    """`losses(params) -> Losses`, which runs the network by `net.apply`.

    The network is run by the game; `net.apply` is answered with the game's outputs. The losses of a
    row [B, T] are averaged, so that a sample is a row of the batch.
    """

    def __init__(
        self,
        net: StagedNetwork,
        losses_fn: Callable[[Tree], Losses],
        params: Tree,
        axis_name: AxisName,
    ) -> None:
        self._net = net
        self._losses_fn = losses_fn
        self._params = params
        self._axis_name = axis_name
        self._played: Losses | None = None
        call = self._recorded_call()
        self.inputs: Any = call.inputs
        self.batch_stats: Tree = net.initial_batch_stats(call.batch_stats, axis_name)
        self.rngs: Any = call.rngs

    def _recorded_call(self) -> NetworkCall:
        """What the user's function calls the network with."""

        def stop(call: NetworkCall) -> Any:
            raise _CallKnown(call)

        try:
            with intercept_calls(self._net, stop):
                self._losses_fn(self._params)
        except _CallKnown as known:
            call = known.call
        else:
            raise ValueError(
                f"gtddp: {APPLY_CALL}; it did not call it. A model from from_flax is called by "
                "net.apply as well, not by model.apply."
            )
        if not call.train:
            raise ValueError(
                f"gtddp: {APPLY_CALL}; it was called with train={call.train}, but the game trains "
                "the network: with dropout, and with the statistics of the batch."
            )
        return call

    def _call(self, params: Tree, outputs: Outputs, batch_stats: Tree) -> Losses:
        """The losses where the network has these outputs."""
        calls = []

        def answer(call: NetworkCall) -> Any:
            calls.append(call)
            leaves = zip(jax.tree.leaves(call.params), jax.tree.leaves(params), strict=True)
            if len(calls) > 1 or not all(given is expected for given, expected in leaves):
                raise ValueError(
                    f"gtddp: {APPLY_CALL}; it was called {len(calls)} times or with other "
                    "parameters. Concatenate several inputs into one batch; change parameters by a "
                    "layer of the network."
                )
            return (outputs, batch_stats) if jax.tree.leaves(batch_stats) else outputs

        with intercept_calls(self._net, answer):
            return call_losses(self._losses_fn, params)

    @override
    def per_sample(self, outputs: Outputs) -> PerSample:
        return self._values(self._params, outputs, self.batch_stats)

    def _values(self, params: Tree, outputs: Outputs, batch_stats: Tree) -> PerSample:
        losses = self._call(params, outputs, batch_stats)
        scaled = masked_values(losses, losses.outputs, self._axis_name)
        return scaled if scaled.ndim == 1 else scaled.mean(1)

    @override
    def check(self, network_pass: NetworkPass) -> None:
        def from_params(params: Tree) -> PerSample:
            return self._values(params, network_pass.outputs, network_pass.batch_stats)

        def regularizer(outputs: Outputs) -> Any:
            return self._call(self._params, outputs, network_pass.batch_stats).regularizer

        losses = self._losses_of(network_pass)
        check_captured_pairing(losses.per_sample, losses.outputs)
        if reads_argument(from_params, self._params):
            raise ValueError(HIDDEN_PARAMS.format(part="outputs or per_sample"))
        if not _is_constant(losses) and reads_argument(regularizer, network_pass.outputs):
            raise ValueError(
                "gtddp: the regularizer of gtddp_jax.Losses depends on the outputs of the network. "
                "In the sequential game it must be a cost of the parameters alone; add what "
                "belongs to a sample to its loss in per_sample."
            )

    @override
    def regularizer_and_grad(self, network_pass: NetworkPass) -> tuple[Number, Tree | None]:
        def regularizer(params: Tree) -> Any:
            outputs, batch_stats = network_pass.outputs, network_pass.batch_stats
            return self._call(params, outputs, batch_stats).regularizer

        losses = self._losses_of(network_pass)
        if _is_constant(losses):
            return losses.regularizer, None
        return jax.value_and_grad(regularizer)(self._params)

    @override
    def aux(self, network_pass: NetworkPass) -> Tree | None:
        return self._losses_of(network_pass).aux

    def _losses_of(self, network_pass: NetworkPass) -> Losses:
        """The losses of the game's own pass, from one call of the user's function."""
        if self._played is None:
            self._played = self._call(self._params, network_pass.outputs, network_pass.batch_stats)
        return self._played


def _is_constant(losses: Losses) -> bool:
    """Whether the regularizer is a Python number, which has no gradient."""
    return isinstance(losses.regularizer, (int, float))


class _CallKnown(Exception):
    """Ends a function of losses as soon as its call of the network is known."""

    def __init__(self, call: NetworkCall) -> None:
        super().__init__()
        self.call = call
