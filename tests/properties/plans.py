"""Random networks as plans: nested tuples that can be printed and converted into layers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from tests.sequential import zoo

Plan = tuple
Rng = np.random.Generator
WIDTH = 3
"""The features of every state, so that any two states can be added."""

FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "softplus": nn.softplus,
    "gelu": nn.gelu,
}
INPUTS: dict[str, tuple[int, ...]] = {
    "flat": (WIDTH,),
    "tokens": (2, WIDTH),
    "image": (2, 2, WIDTH),
}
"""The shapes of one input, by name."""

GENERIC = ("gate", "layer_norm", "group_norm")
"""Players that have no Kronecker form."""


class Network(NamedTuple):
    """The plan of a network.

    Attributes:
        inputs: a key of `INPUTS`.
        layers: plans that keep the shape.
        head: "pool", "flatten" or "each" (outputs at every position).
        outputs: the features of the last layer.
    """

    inputs: str
    layers: list[Plan]
    head: str
    outputs: int


def count(plans: list[Plan]) -> int:
    """The number of parametric stages in a chain of plans."""
    return sum(_stages(plan) for plan in plans)


def _stages(plan: Plan) -> int:
    kind, *rest = plan
    if kind == "f":
        return 0
    if kind == "residual":
        return count(rest[0])
    return max(map(count, rest[0])) if kind == "parallel" else 1


def kinds(plans: list[Plan]) -> set[str]:
    """The kinds of layers in a chain of plans, at any depth."""
    found = set()
    for kind, *rest in plans:
        found.add(kind)
        if kind == "residual":
            found |= kinds(rest[0]) | kinds(rest[1])
        if kind == "cooperative":
            found |= kinds(rest[0])
        if kind == "parallel":
            found |= set().union(*map(kinds, rest[0]))
    return found


def layer(plan: Plan) -> Any:
    """Converts a plan into a layer that keeps the shape [B, ..., 3]."""
    kind, *rest = plan
    if kind == "f":
        return FUNCTIONS[rest[0]]
    if kind == "dense":
        return nn.Dense(WIDTH, use_bias=rest[0])
    if kind == "conv":
        size, bias, groups = rest
        return nn.Conv(WIDTH, size, use_bias=bias, feature_group_count=groups)
    if kind == "gate":
        return zoo.Gate()
    if kind == "layer_norm":
        return nn.LayerNorm()
    if kind == "group_norm":
        return nn.GroupNorm(num_groups=1)
    if kind == "batch_norm":
        return nn.BatchNorm(momentum=0.8)
    if kind == "cooperative":
        return gt.Cooperative([layer(player) for player in rest[0]])
    if kind == "parallel":
        branches, merge = rest
        return gt.Parallel([[layer(b) for b in branch] for branch in branches], merge)
    body, shortcut, at = rest
    return gt.Residual([layer(b) for b in body], [layer(s) for s in shortcut] or None, at=at)


def layers(network: Network) -> list[Any]:
    """Converts a plan into the layers of a `gt.Network`."""
    last = {"pool": [zoo.pool], "flatten": [zoo.flatten], "each": []}[network.head]
    if network.inputs == "flat":
        last = []
    return [*map(layer, network.layers), *last, nn.Dense(network.outputs)]


class Model(nn.Module):
    """The same network as a Flax model, for `gt.from_flax`."""

    network: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for part in layers(Network(*self.network)):
            x = _applied(part, x)
        return x


def _as_chain(layers: Any) -> Sequence[Any]:
    return layers if isinstance(layers, (list, tuple)) else [layers]


def _applied_chain(chain: Any, x: jax.Array) -> jax.Array:
    return functools.reduce(lambda x, inner: _applied(inner, x), _as_chain(chain), x)


def _applied(part: Any, x: jax.Array) -> jax.Array:
    if isinstance(part, gt.Residual):
        return _applied_chain(part.body, x) + _applied_chain(part.shortcut or (), x)
    if isinstance(part, gt.Parallel):
        outputs = [_applied_chain(branch, x) for branch in part.branches]
        is_sum = part.merge == "sum"
        return functools.reduce(jnp.add, outputs) if is_sum else jnp.concatenate(outputs, -1)
    if isinstance(part, gt.Cooperative):
        outputs = [_applied(player, x) for player in part.players]
        return functools.reduce(jnp.add, outputs)
    return part(x)


class Draw:
    """Draws plans.

    Args:
        rng: the source of random numbers.
        inputs: a key of `INPUTS`.
        generic: whether players without a Kronecker form may occur.
        coupled: whether `nn.BatchNorm` may occur.
        apart: whether branches stand side by side, without grouped convolutions and
            `gt.Cooperative`, so that players of a stage may have joint Kronecker factors.
    """

    def __init__(
        self, rng: Rng, inputs: str, *, generic: bool, coupled: bool, apart: bool = False
    ) -> None:
        self._rng, self._inputs, self._coupled, self._apart = rng, inputs, coupled, apart
        self._kinds = ["dense"] * 3 + (["conv"] * 3 if inputs != "flat" else [])
        if generic:
            self._kinds += list(GENERIC)

    def _chance(self, p: float) -> bool:
        return bool(self._rng.random() < p)

    def player(self) -> Plan:
        """A layer with parameters."""
        kind = str(self._rng.choice(self._kinds))
        if kind == "dense":
            return ("dense", self._chance(0.6))
        if kind == "conv":
            rank = len(INPUTS[self._inputs]) - 1
            size = tuple(int(n) for n in self._rng.integers(1, 4, size=rank))
            return (
                "conv",
                size,
                self._chance(0.6),
                1 if self._apart else int(self._rng.choice([1, 1, WIDTH])),
            )
        return (kind,)

    def function(self) -> Plan:
        """An activation."""
        return ("f", str(self._rng.choice(list(FUNCTIONS))))

    def chain(self, stages: int, depth: int) -> list[Plan]:
        """Layers with `stages` parametric stages and blocks nested at most `depth` deep."""
        found: list[Plan] = []
        while count(found) < stages:
            left = stages - count(found)
            if self._chance(0.5):
                found.append(self.function())
            if self._coupled and self._chance(0.3):
                found.append(("batch_norm",))
                continue
            if depth and self._chance(0.45):
                found.append(self.block(int(self._rng.integers(1, left + 1)), depth - 1))
            elif depth and self._chance(0.15):
                found += self.parallel(left, depth - 1)
            elif self._chance(0.2) and not self._apart:
                players = [self.player() for _ in range(int(self._rng.integers(2, 4)))]
                found.append(("cooperative", players))
            else:
                found.append(self.player())
        return found

    def block(self, stages: int, depth: int) -> Plan:
        """A residual block with a random shortcut, placed at a random position."""
        body = self.chain(stages, depth)
        shortcut: list[Plan] = []
        if self._chance(0.5):
            shortcut = self.chain(int(self._rng.integers(1, count(body) + 1)), 0)
            if self._coupled:
                shortcut = [plan for plan in shortcut if plan[0] != "batch_norm"] or [self.player()]
        elif self._chance(0.3):
            shortcut = [self.function()]
        at = int(self._rng.integers(0, count(body) - max(1, count(shortcut)) + 1))
        return ("residual", body, shortcut, at)

    def parallel(self, most: int, depth: int) -> list[Plan]:
        """Branches as in an inception block; features that were joined are mapped to 3 again."""
        lengths = self._rng.integers(1, most + 1, size=2)
        branches = [self.chain(int(length), depth) for length in lengths]
        if self._chance(0.3):
            branches.append([])
        if self._chance(0.5):
            return [("parallel", branches, "sum")]
        return [("parallel", branches, "concatenate"), ("dense", self._chance(0.6))]

    def network(self, *, most: int, each: bool = False) -> Network:
        """A network of 1 to `most` stages before the last layer."""
        head = "each" if each else str(self._rng.choice(["pool", "flatten"]))
        stages = int(self._rng.integers(1, most + 1))
        plans = self.parallel(stages, 0) if self._apart else self.chain(stages, depth=2)
        return Network(self._inputs, plans, head, int(self._rng.integers(2, 4)))
