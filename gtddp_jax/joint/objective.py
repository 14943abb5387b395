"""The objective of one batch: outputs of single samples, their derivatives, and losses of outputs.

| symbol | meaning                                                      | shape                   |
|--------|--------------------------------------------------------------|-------------------------|
| n      | samples of a term on this device; N on all devices           |                         |
| R      | outputs of a sample                                          |                         |
| o      | outputs of all samples of all devices                        | [N, R] for each term    |
| phi~   | losses with the weights of their terms, `(c / N) phi`        |                         |
| J      | derivative of the outputs by the parameters                  | tree of [n R, size]     |
| H      | second derivatives of phi~, one block per sample             | [N, R, R], or [N, 1, 1] |

A block [1, 1] stands for a multiple of the identity, which is all that squared losses need. With a
mapped axis over devices, each of them differentiates its own samples; outputs and derivatives of
losses are gathered, since all that is as long as the outputs is small beside the rows.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from typing_extensions import override

from gtddp_jax.core.samples import SampleReductions
from gtddp_jax.core.types import AxisName, Flag, Number, Scalar, Tree
from gtddp_jax.joint.read_rows import AdjointRows, read_outputs
from gtddp_jax.joint.terms import Term, sample_count

TermOutputs: TypeAlias = dict[str, Float[Array, "samples outputs"]]
Blocks: TypeAlias = Mapping[str, Float[Array, "samples outputs outputs"]]

COUPLING_ROUNDING = 1e4
"""Units of rounding of the largest loss by which losses of a batch and of single samples may
differ."""


class Objective(abc.ABC):
    """The objective as a function of the parameters, by way of the outputs.

    Attributes:
        counts: number of samples of each term on this device.
        is_squared: whether all losses are half the sum of squares.
        axis_name: the mapped axis over devices, or None.
    """

    counts: dict[str, int]
    is_squared: bool
    axis_name: AxisName

    def samples(self, name: str) -> SampleReductions:
        """Reductions over the samples of a term."""
        return SampleReductions(self.counts[name], self.axis_name)

    def local_copy(self, tree: Any) -> Any:
        """A tree whose derivatives are this device's share, see `SampleReductions`."""
        return SampleReductions(1, self.axis_name).local_copy(tree)

    def sum_over_devices(self, tree: Any) -> Any:
        """Sums of what the devices have."""
        return SampleReductions(1, self.axis_name).sum_over_devices(tree)

    def gather(self, parts: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Arrays [n, ...] of this device as [N, ...], the same on each device."""
        return {name: self.samples(name).gather_over_devices(x) for name, x in parts.items()}

    def own_part(self, whole: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The inverse of `gather`: this device's [n, ...] of [N, ...]."""
        if self.axis_name is None:
            return dict(whole)
        axis_name: Any = self.axis_name
        device = jax.lax.axis_index(axis_name)

        def part(name: str, x: jax.Array) -> jax.Array:
            size = self.counts[name]
            return jax.lax.dynamic_slice_in_dim(x, device * size, size)

        return {name: part(name, x) for name, x in whole.items()}

    @abc.abstractmethod
    def local_outputs(self, params: Tree) -> TermOutputs:
        """The outputs [n, R] of this device's samples."""

    def outputs(self, params: Tree) -> TermOutputs:
        """The outputs [N, R] of all samples."""
        return self.gather(self.local_outputs(params))

    @abc.abstractmethod
    def some_outputs(self, params: Tree, name: str, places: jax.Array) -> jax.Array:
        """The outputs [c, R] of this device's samples of a term at `places` [c]."""

    @abc.abstractmethod
    def sample_rows(self, params: Tree, name: str, places: jax.Array) -> Tree:
        """Rows of J of this device's samples at `places` [c]: matrices [c R, size]."""

    @abc.abstractmethod
    def adjoint_rows(self, params: Tree, name: str) -> AdjointRows | None:
        """The rows of all samples of this device by adjoint passes; None if that saves nothing."""

    @abc.abstractmethod
    def local_losses(self, outputs: TermOutputs) -> dict[str, Scalar]:
        """The sum of phi~ over this device's samples, by term, for its outputs [n, R]."""

    @abc.abstractmethod
    def local_derivatives(
        self, outputs: TermOutputs
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Gradients [n, R] and Hessians of phi~ for outputs [n, R] of this device."""

    def losses(self, outputs: TermOutputs) -> dict[str, Scalar]:
        """The losses of the terms for outputs [N, R]."""
        return self.sum_over_devices(self.local_losses(self.own_part(outputs)))

    def value(self, outputs: TermOutputs) -> Scalar:
        """The objective for outputs [N, R]."""
        return jnp.stack(list(self.losses(outputs).values())).sum()

    def value_at(self, params: Tree) -> Scalar:
        """The objective at some parameters."""
        losses = self.sum_over_devices(self.local_losses(self.local_outputs(params)))
        return jnp.stack(list(losses.values())).sum()

    def derivatives(self, outputs: TermOutputs) -> tuple[dict[str, jax.Array], Blocks]:
        """Gradients [N, R] and Hessians of phi~ for outputs [N, R]."""
        gradients, hessians = self.local_derivatives(self.own_part(outputs))
        return self.gather(gradients), self.gather(hessians)

    def samples_coupled(self, params: Tree, outputs: TermOutputs) -> Flag:
        """Whether the losses of some samples depend on other samples, as far as that is known."""
        del params, outputs
        return jnp.array(False)

    def regularizer_and_grad(self, params: Tree) -> tuple[Number, Tree | None]:
        """A further summand, of the parameters alone, and its gradient; None without one."""
        del params
        return 0.0, None


class TermObjective(Objective):
    """Terms with their samples.

    Args:
        terms: the terms by name.
        batch: samples of each term on this device.
        axis_name: the mapped axis over devices, or None.
    """

    def __init__(
        self, terms: Mapping[str, Term], batch: Mapping[str, Tree], axis_name: AxisName
    ) -> None:
        self.terms: Mapping[str, Term] = terms
        self.batch: Mapping[str, Tree] = batch
        self.axis_name: AxisName = axis_name
        self.counts: dict[str, int] = {name: sample_count(batch[name]) for name in terms}
        self.is_squared: bool = all(term.loss is None for term in terms.values())

    @override
    def local_outputs(self, params: Tree) -> TermOutputs:
        return {name: self._outputs_of(name)(params) for name in self.terms}

    def _outputs_of(self, name: str) -> Callable[[Tree], jax.Array]:
        """The outputs [n, R] of a term as a function of the parameters."""
        residual = jax.vmap(self.terms[name].flat_residual, in_axes=(None, 0))
        return lambda params: residual(params, self.batch[name])

    def _some_samples(self, name: str, places: jax.Array) -> Tree:
        samples = self.batch[name]
        if places.shape[0] == self.counts[name]:
            return samples
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[places], samples)

    @override
    def some_outputs(self, params: Tree, name: str, places: jax.Array) -> jax.Array:
        samples = self._some_samples(name, places)
        return jax.vmap(self.terms[name].flat_residual, in_axes=(None, 0))(params, samples)

    @override
    def sample_rows(self, params: Tree, name: str, places: jax.Array) -> Tree:
        residual = self.terms[name].flat_residual
        samples = self._some_samples(name, places)

        def sample_rows(sample: Tree) -> Tree:
            outputs, pull_back = jax.vjp(lambda params: residual(params, sample), params)
            if outputs.size == 1:
                # Without an axis of length one, which would cost copies of all rows.
                return pull_back(self.local_copy(jnp.ones_like(outputs)))[0]
            units = self.local_copy(jnp.eye(outputs.size, dtype=outputs.dtype))
            return jax.vmap(pull_back)(units)[0]

        # Reverse mode through a function of the batch would pass over the whole batch per row.
        rows = jax.vmap(sample_rows)(samples)

        def as_matrix(leaf: jax.Array, param: jax.Array) -> jax.Array:
            return leaf.reshape(leaf.size // param.size, param.size)

        return jax.tree.map(as_matrix, rows, params)

    @override
    def adjoint_rows(self, params: Tree, name: str) -> AdjointRows | None:
        found = read_outputs(self._outputs_of(name), params, self.axis_name)
        return found.propagate(params) if found is not None and found.saves_work else None

    def _sample_losses(self, outputs: TermOutputs) -> dict[str, jax.Array]:
        return {
            name: jax.vmap(term.sample_loss)(outputs[name], self.batch[name])
            for name, term in self.terms.items()
        }

    def _factor(self, name: str, dtype: Any) -> jax.Array:
        return jnp.asarray(self.terms[name].weight, dtype) / self.samples(name).count

    @override
    def local_losses(self, outputs: TermOutputs) -> dict[str, Scalar]:
        return {
            name: self._factor(name, losses.dtype) * losses.sum()
            for name, losses in self._sample_losses(outputs).items()
        }

    @override
    def local_derivatives(
        self, outputs: TermOutputs
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        gradients, hessians = {}, {}
        for name, term in self.terms.items():
            value = outputs[name]
            factor = self._factor(name, value.dtype)
            if term.loss is None:
                gradients[name] = factor * value
                hessians[name] = jnp.full((value.shape[0], 1, 1), factor)
                continue
            samples = self.batch[name]
            gradients[name] = factor * jax.vmap(jax.grad(term.sample_loss))(value, samples)
            hessians[name] = factor * jax.vmap(jax.hessian(term.sample_loss))(value, samples)
        return gradients, hessians

    @override
    def samples_coupled(self, params: Tree, outputs: TermOutputs) -> Flag:
        single = self._sample_losses(self.own_part(outputs))
        coupled = jnp.array(False)
        for name, term in self.terms.items():
            together = term.batch_losses(params, self.batch[name])
            if together is None:
                continue
            samples = self.samples(name)
            tolerance = min(0.1, max(1e-6, COUPLING_ROUNDING * float(jnp.finfo(together).eps)))
            difference = samples.max(jnp.abs(together - single[name]))
            # A NaN is no sign of coupling, and fails the comparison.
            coupled |= difference > tolerance * samples.max(jnp.abs(together))
        return coupled
