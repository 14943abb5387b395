"""The losses of one batch as a vector function of the parameters, and its derivative.

| symbol | meaning                                              | here                       |
|--------|------------------------------------------------------|----------------------------|
| G_i    | gradient of sample i's loss by all parameters        | a row of the derivative    |
| q(w)   | (1/B) sum_i w_i G_i                                  | `weighted_gradient(w)`     |
| G . k  | first-order change of each sample's loss along k     | `jvp_fn(k)`, `jvp`         |

Batch coupling (BatchNorm) and weight sharing need no special case: G_i is the gradient of one
number, the loss of sample i, by all parameters.
"""

import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.counted_samples import CountedSamples, samples_with_gradient
from gtddp_jax.core.explicit_sharding import reshard_like
from gtddp_jax.core.outputs import check_per_sample_outputs, join_outputs, split_outputs
from gtddp_jax.core.reverse_rules import custom_vjp_names
from gtddp_jax.core.samples import SampleReductions, to_varying, varying_axes
from gtddp_jax.core.trees import per_sample_dot, upcast
from gtddp_jax.core.types import AxisName, Inputs, Outputs, PerSample, Tree
from gtddp_jax.network import Network
from gtddp_jax.network.sample_gradients import SampleGradients
from gtddp_jax.terminal import TerminalExpansion, TerminalModel
from gtddp_jax.terminal.coupling import expand_terminal

JvpFn: TypeAlias = Callable[[Tree], PerSample]
"""Maps (some leaves of) a parameter change to the first-order change of each loss, [B]."""


class LinearizedLosses(abc.ABC):
    """The per-sample losses at the current parameters and batch.

    Attributes:
        outputs: what the model returned.
        expansion: the terminal model of the losses.
        samples: the sample axis.
        aux: what the model returned beside the outputs, or None.
    """

    outputs: Tree
    expansion: TerminalExpansion
    samples: SampleReductions
    aux: Tree | None

    @property
    def uniform_weights(self) -> PerSample:
        """Weights of 1, [B]."""
        return jnp.ones_like(self.expansion.exact_loss.value)

    @property
    def counted(self) -> CountedSamples:
        """The samples that have a gradient; statistics are over these alone."""
        return samples_with_gradient(self.samples, self.expansion.exact_loss.has_gradient)

    @abc.abstractmethod
    def weighted_gradient(self, w: PerSample | None) -> Tree:
        """q(w) for weights [B], `None` for ones; in the dtypes of the parameters."""

    @abc.abstractmethod
    def restrict(self, select: Callable[[Tree], Tree]) -> tuple[Tree, JvpFn]:
        """Restrict the derivative to some parameters.

        Args:
            select: picks some leaves of a tree of parameters.

        Returns:
            The selected leaves of q(1), and `jvp_fn`, which maps the selected leaves of a
            parameter change to the change of each loss, [B]. Nothing else is computed.
        """

    @abc.abstractmethod
    def jvp(self, select: Callable[[Tree], list[Any]], changes: list[Tree]) -> list[PerSample]:
        """Return `G_i . k` [B] for each k in `changes`, of which only the selected leaves count.

        Separate from `restrict`, because it is called inside a conditional: forward mode there,
        with the other parameters as constants, keeps the layout of convolutions, without which
        they are slow inside a conditional on CPUs.
        """


class AutodiffLosses(LinearizedLosses):
    """Any differentiable model: one vjp, and its transpose for directional derivatives."""

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

        def differentiable_outputs(params: Tree) -> tuple[Outputs, tuple[Tree, Tree | None]]:
            outputs, aux = forward(params)
            differentiable, constants = split_outputs(outputs)
            return differentiable, (constants, aux)

        self._forward = differentiable_outputs
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
            terminal, loss_of_differentiable, outputs, self.samples
        )
        self.expansion = self.expansion.with_gradient_share(self.counted.share)

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

    @override
    def weighted_gradient(self, w: PerSample | None) -> Tree:
        weights = self.uniform_weights if w is None else w
        return self.samples.sum_over_devices(self._pull_back(weights / self.samples.count))

    @override
    def restrict(self, select: Callable[[Tree], Tree]) -> tuple[Tree, JvpFn]:
        uniform = self.uniform_weights / self.samples.count
        # The transpose of the pullback c -> sum_i c_i G_i is the directional derivative k -> G k.
        q, transpose = jax.vjp(lambda cotangent: select(self._pull_back(cotangent)), uniform)

        def jvp_fn(change: Tree) -> PerSample:
            # The transpose takes cotangents in the dtypes of q, and returns the loss's dtype.
            return upcast(transpose(_cast_like(change, q))[0])

        return self.samples.sum_over_devices(q), jvp_fn

    @override
    def jvp(self, select: Callable[[Tree], list[Any]], changes: list[Tree]) -> list[PerSample]:
        leaves, structure = jax.tree.flatten(self._params)
        positions = select(jax.tree.unflatten(structure, range(len(leaves))))

        def outputs_of_selected(selected: list[Any]) -> Outputs:
            full = list(leaves)
            for position, leaf in zip(positions, selected, strict=True):
                full[position] = leaf
            return self._forward(jax.tree.unflatten(structure, full))[0]

        # A model with a reverse rule only has no forward mode, but its pullback has a transpose.
        if custom_vjp_names(outputs_of_selected, select(self._params)):
            _, jvp_fn = self.restrict(select)
            return [jvp_fn(select(change)) for change in changes]
        # One linearization serves all changes.
        _, jvp_outputs = jax.linearize(outputs_of_selected, select(self._params))
        g = self.expansion.exact_loss.gradient
        return [
            per_sample_dot(g, jvp_outputs(_cast_like(select(change), select(self._params))))
            for change in changes
        ]


def _cast_like(change: Tree, params: Tree) -> Tree:
    """The change in the dtypes of `params`, and varying over mapped axes where they vary."""
    return jax.tree.map(
        lambda x, param: to_varying(x.astype(param.dtype), varying_axes(param)), change, params
    )


class PlayerLosses(LinearizedLosses):
    """A `gtddp_jax.Network`: the adjoints of one backward pass serve every sum over samples."""

    aux = None

    def __init__(
        self,
        network: Network,
        inputs: Inputs,
        loss: Callable[[Outputs], PerSample],
        params: Tree,
        terminal: TerminalModel,
        axis_name: AxisName,
    ) -> None:
        self.samples: SampleReductions = SampleReductions(network.batch_size(inputs), axis_name)
        self._params: dict[str, Tree] = {
            name: self.samples.local_copy(tree) for name, tree in network.split(params).items()
        }
        network_pass = network.forward(self._params, inputs, {}, None, self.samples, replayed=False)
        self.outputs: Tree = network_pass.outputs
        self.expansion: TerminalExpansion = expand_terminal(
            terminal, loss, network_pass.outputs, self.samples
        )
        self.expansion = self.expansion.with_gradient_share(self.counted.share)
        tapes = network_pass.player_tapes(
            self.expansion.exact_loss.gradient, feedback=True, in_turn=True
        )
        self._gradients: dict[str, SampleGradients] = {
            name: tape.sample_gradients for stage in tapes for name, tape in stage.items()
        }

    @override
    def weighted_gradient(self, w: PerSample | None) -> Tree:
        # The sums are in at least float32, whatever the dtype of the parameters.
        sums = {name: self._gradients[name].weighted_sum(w) for name in self._params}
        mean = self.samples.mean_of_sums(sums)
        return jax.tree.map(lambda g, param: g.astype(param.dtype), mean, self._params)

    @override
    def restrict(self, select: Callable[[Tree], Tree]) -> tuple[Tree, JvpFn]:
        leaves, structure = jax.tree.flatten(self._params)
        # Selecting from a tree of positions tells which leaves `select` picks.
        positions = jax.tree.unflatten(structure, range(len(leaves)))
        selected = jax.tree.leaves(select(positions))
        players = [
            name for name in self._params if set(jax.tree.leaves(positions[name])) & set(selected)
        ]

        def jvp_fn(change: Tree) -> PerSample:
            by_position = dict(zip(selected, jax.tree.leaves(change), strict=True))

            def leaf_change(position: int) -> jax.Array:
                if position in by_position:
                    return by_position[position]
                return jnp.zeros_like(leaves[position])

            changes = {name: jax.tree.map(leaf_change, positions[name]) for name in players}
            parts = [
                self._gradients[name].directional_derivative(changes[name]) for name in players
            ]
            return sum(parts[1:], parts[0])

        # What `select` leaves out is dead code under jit.
        return select(self.weighted_gradient(None)), jvp_fn

    @override
    def jvp(self, select: Callable[[Tree], list[Any]], changes: list[Tree]) -> list[PerSample]:
        _, jvp_fn = self.restrict(select)
        return [jvp_fn(select(change)) for change in changes]
