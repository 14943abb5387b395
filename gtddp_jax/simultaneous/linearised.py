"""The losses of one batch as a vector function of the parameters, and its derivative.

| symbol | meaning                                            | here                           |
|--------|----------------------------------------------------|--------------------------------|
| G_i    | gradient of sample i's loss by all parameters      | a row of the derivative        |
| q(w)   | (1/B) sum_i w_i G_i                                | `gradient(w)`                  |
| G . k  | change of each sample's loss along k, first order  | `dot(k)`                       |

Batch coupling (BatchNorm) and weight sharing need no care: G_i is the gradient of a number.
"""

import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from gtddp_jax.core.samples import Samples, spread, varying
from gtddp_jax.core.trees import inner, wide
from gtddp_jax.core.types import AxisName, Outputs, PerSample, Tree
from gtddp_jax.game import adjoints
from gtddp_jax.network import Network
from gtddp_jax.players import SampleGradients, sample_gradients
from gtddp_jax.players.base import Kept
from gtddp_jax.terminal import Expansion, Terminal

Push: TypeAlias = Callable[[Tree], PerSample]


class Linearised(abc.ABC):
    """A network at its current parameters and batch.

    Attributes:
        expansion: the terminal model of the losses.
        samples: the sample axis.
        aux: what `apply_fn` returned beside the outputs, or None.
    """

    expansion: Expansion
    samples: Samples
    aux: Tree

    @property
    def ones(self) -> PerSample:
        """The plain weights [B]."""
        return jnp.ones_like(self.expansion.line.value)

    @abc.abstractmethod
    def gradient(self, w: PerSample | None) -> Tree:
        """q(w) for weights [B], `None` for ones; in the dtypes of the parameters."""

    @abc.abstractmethod
    def part(self, select: Callable[[Tree], Tree]) -> tuple[Tree, Push]:
        """Restricts the game to some parameters.

        Args:
            select: picks some leaves of a tree of parameters.

        Returns:
            The selected leaves of q(1), and `push`: the selected leaves of a change of the
            parameters -> the change of each sample's loss, [B]. What is not selected is not
            computed.
        """

    @abc.abstractmethod
    def along(self, select: Callable[[Tree], list[Any]], changes: list[Tree]) -> list[PerSample]:
        """`G_i . k` [B] for each k in `changes`, of which only the selected leaves count.

        Forward mode, on its own: the parameters that are not selected are constants. Convolutions
        keep their layout, without which they are slow inside a conditional on CPUs.
        """

    @abc.abstractmethod
    def outputs(self, params: Tree) -> Outputs:
        """The network's outputs with other parameters, same batch, same randomness."""


class ByAutodiff(Linearised):
    """Any differentiable model: one vjp, and its transpose for directional derivatives."""

    def __init__(
        self,
        apply_fn: Callable[[Tree], tuple[Any, Any]],
        loss: Callable[[Outputs], PerSample],
        params: Tree,
        terminal: Terminal,
        axis_name: AxisName,
    ) -> None:
        self._apply = apply_fn
        self._params = own = Samples(0, axis_name).local_copy(params)
        outputs, self._pull_outputs, aux = jax.vjp(apply_fn, own, has_aux=True)
        self.aux: Tree = aux
        self.expansion: Expansion = terminal.expand(loss, outputs)
        value, self._pull_loss = jax.vjp(loss, outputs)
        self._dtype = value.dtype
        self.samples: Samples = Samples(value.shape[0], axis_name)

    def _pull(self, cotangent: jax.Array) -> Tree:
        """`sum_i cotangent_i G_i` over this device's samples."""
        (g,) = self._pull_loss(cotangent.astype(self._dtype))
        return self._pull_outputs(g)[0]

    def gradient(self, w: PerSample | None) -> Tree:
        """See `Linearised`."""
        scale = self.ones if w is None else w
        return self.samples.total(self._pull(scale / self.samples.count))

    def part(self, select: Callable[[Tree], Tree]) -> tuple[Tree, Push]:
        """See `Linearised`."""
        uniform = self.ones / self.samples.count
        q, transpose = jax.vjp(lambda c: select(self._pull(c)), uniform)

        def push(k: Tree) -> jax.Array:
            return wide(transpose(_like(k, q))[0])

        return self.samples.total(q), push

    def along(self, select: Callable[[Tree], list[Any]], changes: list[Tree]) -> list[PerSample]:
        """See `Linearised`."""
        leaves, structure = jax.tree.flatten(self._params)
        places = select(jax.tree.unflatten(structure, range(len(leaves))))

        def outputs(chosen: list[Any]) -> Any:
            full = list(leaves)
            for place, leaf in zip(places, chosen, strict=True):
                full[place] = leaf
            return self._apply(jax.tree.unflatten(structure, full))[0]

        _, tangent = jax.linearize(outputs, select(self._params))
        g = self.expansion.line.gradient
        return [inner(g, tangent(_like(select(k), select(self._params)))) for k in changes]

    def outputs(self, params: Tree) -> Outputs:
        """See `Linearised`."""
        return self._apply(params)[0]


def _like(change: Tree, params: Tree) -> Tree:
    """The change in the dtypes of `params`, and as local copies where they are copies."""
    return jax.tree.map(lambda v, p: spread(v.astype(p.dtype), varying(p)), change, params)


def _following(done: jax.Array, x: jax.Array) -> jax.Array:
    """`x`, not before the number `done` is known.

    Layers take turns at laying out the patches for their samples' gradients, which are larger than
    what is kept; a compiler that is free to choose lays out all of them first.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return jnp.where(jnp.isnan(done), jnp.nan, x).astype(x.dtype)


class ByPlayers(Linearised):
    """A `Network`: the adjoints of one backward pass serve every sum (DESIGN §6)."""

    aux = None

    def __init__(
        self,
        net: Network,
        inputs: jax.Array,
        loss: Callable[[Outputs], PerSample],
        params: Tree,
        terminal: Terminal,
        axis_name: AxisName,
    ) -> None:
        self.samples: Samples = Samples(inputs.shape[0], axis_name)
        params = self.samples.local_copy(params)
        self._net, self._inputs, self._params = net, inputs, params
        stages = net.bind()
        trajectory = adjoints.forward(stages, params, inputs)
        self.expansion: Expansion = terminal.expand(loss, trajectory.outputs)
        back = adjoints.backward(stages, trajectory, self.expansion.line.gradient)
        self._gradients: dict[str, SampleGradients] = {}
        done: jax.Array | None = None
        for act in reversed(net.acts):
            x, g = trajectory.values[act.source], back.moves[act.target]
            if done is not None:
                x, g = _following(done, x), _following(done, g)
            found = sample_gradients(act, params[act.name], x, g, feedback=True)
            if isinstance(found, Kept):
                done = jax.tree.leaves(found.gradients)[0].ravel()[0]
            self._gradients[act.name] = found

    def gradient(self, w: PerSample | None) -> Tree:
        """See `Linearised`."""
        sums = {name: self._gradients[name].weighted(w) for name in self._params}
        mean = self.samples.mean_of_sums(sums)
        return jax.tree.map(lambda g, p: g.astype(p.dtype), mean, dict(self._params))

    def part(self, select: Callable[[Tree], Tree]) -> tuple[Tree, Push]:
        """See `Linearised`."""
        leaves, structure = jax.tree.flatten(self._params)
        marks = jax.tree.unflatten(structure, range(len(leaves)))
        chosen = jax.tree.leaves(select(marks))
        playing = [n for n in self._params if set(jax.tree.leaves(marks[n])) & set(chosen)]

        def push(k: Tree) -> jax.Array:
            given = dict(zip(chosen, jax.tree.leaves(k), strict=True))

            def leaf(mark: int) -> jax.Array:
                return given[mark] if mark in given else jnp.zeros_like(leaves[mark])

            changes = {n: jax.tree.map(leaf, marks[n]) for n in playing}
            parts = [self._gradients[n].dot(changes[n]) for n in playing]
            return sum(parts[1:], parts[0])

        return select(self.gradient(None)), push

    def along(self, select: Callable[[Tree], list[Any]], changes: list[Tree]) -> list[PerSample]:
        """See `Linearised`."""
        push = self.part(select)[1]
        return [push(select(k)) for k in changes]

    def outputs(self, params: Tree) -> Outputs:
        """See `Linearised`."""
        return self._net.apply(params, self._inputs)
