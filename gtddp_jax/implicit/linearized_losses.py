"""The losses of one batch as a vector function of the parameters, and its derivative.

| symbol | meaning                                              | here                       |
|--------|------------------------------------------------------|----------------------------|
| G_i    | gradient of sample i's loss by all parameters        | a row of the derivative    |
| q(w)   | (1/B) sum_i w_i G_i                                  | `weighted_gradient(w)`     |
| G . k  | first-order change of each sample's loss along k     | `jvp_fn(k)`                |

Batch coupling (BatchNorm) and weight sharing need no special case: G_i is the gradient of one
number, the loss of sample i, by all parameters.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp

from gtddp_jax.core.counted_samples import CountedSamples, samples_with_gradient
from gtddp_jax.core.explicit_sharding import reshard_like
from gtddp_jax.core.outputs import check_per_sample_outputs, join_outputs, split_forward
from gtddp_jax.core.samples import SampleReductions, to_varying, varying_axes
from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import AxisName, Outputs, PerSample, Scalar, Tree
from gtddp_jax.terminal import TerminalExpansion, TerminalModel
from gtddp_jax.terminal.coupling import expand_terminal
from gtddp_jax.tracing.separate_losses import losses_are_separate

JvpFn: TypeAlias = Callable[[Tree], PerSample]
"""Maps a parameter change to the first-order change of each loss, [B]."""


class LinearizedLosses:
    """The per-sample losses at the current parameters and batch.

    Args:
        forward: `forward(params) -> (outputs, aux)`.
        loss: `loss(outputs) -> [B]`.
        params: the parameters.
        terminal: the terminal model.
        axis_name: the mapped axis over devices, or None.

    Attributes:
        outputs: what the model returned.
        expansion: the terminal model of the losses.
        samples: the sample axis.
        aux: what the model returned beside the outputs, or None.
    """

    def __init__(
        self,
        forward: Callable[[Tree], tuple[Outputs, Tree | None]],
        loss: Callable[[Outputs], PerSample],
        params: Tree,
        terminal: TerminalModel,
        axis_name: AxisName,
    ) -> None:
        # Replicated parameters would make shard_map sum every derivative over the devices.
        self._params = SampleReductions(0, axis_name).local_copy(params)
        self._axis_name = axis_name

        self._forward = split_forward(forward)
        outputs, (constants, aux) = self._differentiate_model()
        self.aux: Tree | None = aux
        self.outputs: Tree = join_outputs(outputs, constants)

        def loss_of_differentiable(outputs: Outputs) -> PerSample:
            return loss(join_outputs(outputs, constants))

        value, self._pull_loss = jax.vjp(loss_of_differentiable, outputs)
        check_per_sample_outputs(outputs, value)
        self._dtype = value.dtype
        self.samples: SampleReductions = SampleReductions(value.shape[0], axis_name)
        self.expansion: TerminalExpansion = expand_terminal(
            terminal,
            loss_of_differentiable,
            outputs,
            self.samples,
            are_separate=lambda: losses_are_separate(loss_of_differentiable, outputs),
        )
        self.expansion = self.expansion.with_gradient_share(self.counted.share)

    @property
    def uniform_weights(self) -> PerSample:
        """Weights of 1, [B]."""
        return jnp.ones_like(self.expansion.exact_loss.value)

    @property
    def counted(self) -> CountedSamples:
        """The samples that have a gradient; statistics are over these alone."""
        return samples_with_gradient(self.samples, self.expansion.exact_loss.has_gradient)

    def _differentiate_model(self) -> tuple[Outputs, tuple[Tree, Tree | None]]:
        """The outputs with derivatives, the others, and aux."""
        outputs, self._pull_outputs, rest = jax.vjp(self._forward, self._params, has_aux=True)
        return outputs, rest

    def _pull_back(self, cotangent: PerSample) -> Tree:
        """`sum_i cotangent_i G_i` over this device's samples."""
        return self._pull_outputs(self._output_gradient(cotangent))[0]

    def _output_gradient(self, cotangent: PerSample) -> Outputs:
        """The gradient of `sum_i cotangent_i loss_i` by the outputs."""
        losses = self.expansion.exact_loss.value
        return self._pull_loss(reshard_like(cotangent.astype(self._dtype), losses))[0]

    def weighted_gradient(self, w: PerSample | None) -> Tree:
        """q(w) for weights [B], `None` for ones; in the dtypes of the parameters."""
        weights = self.uniform_weights if w is None else w
        return self.samples.sum_over_devices(self._pull_back(weights / self.samples.count))

    def gradient_bounds(self, w: PerSample) -> Mapping[int, Scalar]:
        """Bounds on the magnitudes of some leaves of q(w), by position, if they cost less than q.

        Args:
            w: the weights that `weighted_gradient` had.
        """
        del w
        return {}

    def linearize_gradient(self) -> tuple[Tree, JvpFn]:
        """The gradient q(1), and `jvp_fn`, which maps a parameter change to that of each loss."""
        uniform = self.uniform_weights / self.samples.count
        # The transpose of the pullback c -> sum_i c_i G_i is the directional derivative k -> G k.
        q, transpose = jax.vjp(self._pull_back, uniform)

        def jvp_fn(change: Tree) -> PerSample:
            # The transpose takes cotangents in the dtypes of q, and returns the loss's dtype.
            return upcast(transpose(_cast_like(change, q))[0])

        return self.samples.sum_over_devices(q), jvp_fn


def _cast_like(change: Tree, params: Tree) -> Tree:
    """The change in the dtypes of `params`, and varying over mapped axes where they vary."""
    return jax.tree.map(
        lambda x, param: to_varying(x.astype(param.dtype), varying_axes(param)), change, params
    )
