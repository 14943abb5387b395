"""From blocks to stages.

A step is a list of operations that holds the players acting at one time. Functions after a player
belong to that player's step (`x_{t+1} = sigma(W x_t + b)`), functions at the head of a block to the
first player that follows. A merge belongs to the last step of its block (Eq. 26a).
"""

from gtddp_jax.network.blocks import Cooperative, Layer, Residual
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.modes import LAYERS, operations
from gtddp_jax.network.naming import Namer, layer_label
from gtddp_jax.network.program import Act, Add, Map, Op, Stage, Value, close_stages


class Lowering:
    """One pass over the layers of one network."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self._namer = Namer()
        self._values = 0
        source = self._values
        steps, target = self._sequence(layers, source, "Network")
        self.steps: list[list[Op]] = steps
        if not any(isinstance(op, Act) for step in self.steps for op in step):
            raise NetworkError("Network: no layer has parameters; there is nothing to train.")
        self.stages: tuple[Stage, ...] = close_stages(self.steps, source, target)

    def _value(self) -> Value:
        self._values += 1
        return self._values

    def _sequence(
        self, layers: tuple[Layer, ...], value: Value, where: str
    ) -> tuple[list[list[Op]], Value]:
        """Steps of a chain of layers; only the first step may lack a player (then it is alone)."""
        steps: list[list[Op]] = []
        for index, layer in enumerate(layers):
            place = f"{where}[{index}]"
            if isinstance(layer, Residual):
                new, value = self._residual(layer, value, f"{place} Residual")
            elif isinstance(layer, Cooperative):
                new, value = self._cooperative(layer, value, f"{place} Cooperative")
            elif self._namer.is_module(layer, place):
                name = self._namer.name(layer, place)
                ops = operations(layer, name, place, value, self._value)
                new, value = [ops], ops[-1].target
            else:
                function = self._namer.function(layer, place)
                new, value = _single(Map(function, layer_label(layer), value, self._value()))
            steps = _join(steps, new)
        return steps, value

    def _residual(self, block: Residual, value: Value, where: str) -> tuple[list[list[Op]], Value]:
        body, trunk = self._sequence(tuple(block.body), value, f"{where} body")
        if not any(_acts(step) for step in body):
            raise NetworkError(
                f"{where}: no layer of the body has parameters; a block needs a player."
            )
        if not 0 <= block.at < len(body):
            raise NetworkError(
                f"{where}: at={block.at} is out of range; the body has {len(body)} parametric "
                f"stage(s), so `at` may be 0 to {len(body) - 1}."
            )
        shortcut, skip = value, value
        if block.shortcut:
            steps, skip = self._sequence(tuple(block.shortcut), shortcut, f"{where} shortcut")
            if block.at + len(steps) > len(body):
                raise NetworkError(
                    f"{where}: a shortcut with {len(steps)} parametric layers placed at="
                    f"{block.at} needs {block.at + len(steps)} stages of the body, which has "
                    f"{len(body)}. Place it earlier or lengthen the body."
                )
            for offset, ops in enumerate(steps):
                body[block.at + offset].extend(ops)
        merge = Add(f"merge of {where}", (trunk, skip), self._value())
        body[-1].append(merge)
        return body, merge.target

    def _cooperative(
        self, block: Cooperative, value: Value, where: str
    ) -> tuple[list[list[Op]], Value]:
        acts = []
        for index, module in enumerate(block.players):
            place = f"{where}[{index}]"
            if isinstance(module, tuple(LAYERS)):
                raise NetworkError(
                    f"{place}: nn.{layer_label(module)} cannot be a member of a cooperative block; "
                    "put it before or after the block."
                )
            acts.append(Act(self._namer.name(module, place), module, value, self._value()))
        total = Add(f"sum of {where}", tuple(act.target for act in acts), self._value())
        return [[*acts, total]], total.target


def _single(op: Op) -> tuple[list[list[Op]], Value]:
    return [[op]], op.target


def _acts(step: list[Op]) -> bool:
    return any(isinstance(op, Act) for op in step)


def _join(steps: list[list[Op]], new: list[list[Op]]) -> list[list[Op]]:
    """Appends steps; one without a player joins the step before it, or the one after it."""
    for ops in new:
        if steps and (not _acts(ops) or not _acts(steps[-1])):
            steps = [*steps[:-1], [*steps[-1], *ops]]
        else:
            steps = [*steps, ops]
    return steps


def lower(layers: tuple[Layer, ...]) -> tuple[Stage, ...]:
    """The stages of a chain of layers.

    Raises:
        NetworkError: the description cannot be built.
    """
    return Lowering(layers).stages
