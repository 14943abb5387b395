"""From the blocks that a user writes to the stages of the dynamics.

A step is the list of operations of one stage. Functions after a player belong to that player's step
(`x_{t+1} = sigma(W x_t + b)`); functions at the head of a block belong to the step of the first
player that follows. A merge belongs to the last step of its block (paper Eq. 26a).
"""

from typing import TypeAlias

import flax.linen as nn

from gtddp_jax.network.blocks import BANDIT, Cooperative, Layer, Parallel, Residual, as_layers
from gtddp_jax.network.errors import NetworkError
from gtddp_jax.network.modes import MODE_DEPENDENT_LAYERS, LayerSite, layer_ops
from gtddp_jax.network.naming import PlayerNamer, layer_label
from gtddp_jax.network.program import (
    AddOp,
    ConcatenateOp,
    FunctionOp,
    PlayerOp,
    Stage,
    StageOp,
    ValueId,
    close_stages,
)

Steps: TypeAlias = list[list[StageOp]]


class Lowering:
    """One walk over the layers of one network.

    Args:
        layers: the layers.
        placement: the stage for each `Residual(at="bandit")`, in order; 0 where it ends.

    Attributes:
        steps: the operations of each stage.
        stages: the stages.
        placement_counts: the number of stages that each `Residual(at="bandit")` may choose.
    """

    def __init__(self, layers: tuple[Layer, ...], placement: tuple[int, ...] = ()) -> None:
        self._namer = PlayerNamer()
        self._placement = placement
        self.placement_counts: list[int] = []
        self._value_count = 0
        source = self._value_count
        # Values are numbered in the order in which they are written; 0 is the network's input.
        steps, target = self._lower_sequence(layers, source, "Network")
        self.steps: Steps = steps
        if not any(_has_player(step) for step in self.steps):
            raise NetworkError("Network: no layer has parameters; there is nothing to train.")
        self.stages: tuple[Stage, ...] = close_stages(self.steps, source, target)

    def _new_value(self) -> ValueId:
        self._value_count += 1
        return self._value_count

    def _lower_sequence(
        self, layers: tuple[Layer, ...], value: ValueId, where: str
    ) -> tuple[Steps, ValueId]:
        """Steps of a chain of layers, and its output value.

        Only the first step may lack a player; it is then the only step.
        """
        steps: Steps = []
        for index, layer in enumerate(layers):
            place = f"{where}[{index}]"
            new_steps: Steps
            if isinstance(layer, Residual):
                new_steps, value = self._lower_residual(layer, value, f"{place} Residual")
            elif isinstance(layer, Cooperative):
                new_steps, value = self._lower_cooperative(layer, value, f"{place} Cooperative")
            elif isinstance(layer, Parallel):
                new_steps, value = self._lower_parallel(layer, value, f"{place} Parallel")
            elif isinstance(layer, nn.Module):
                name = self._namer.name_player(layer, place)
                ops = layer_ops(layer, LayerSite(name, place, value, self._new_value))
                new_steps, value = [ops], ops[-1].target
            else:
                function = self._namer.check_function(layer, place)
                op = FunctionOp(function, layer_label(layer), value, self._new_value())
                new_steps, value = [[op]], op.target
            steps = _join_steps(steps, new_steps)
        return steps, value

    def _lower_residual(self, block: Residual, value: ValueId, where: str) -> tuple[Steps, ValueId]:
        body, trunk = self._lower_sequence(as_layers(block.body), value, f"{where} body")
        if not any(_has_player(step) for step in body):
            raise NetworkError(
                f"{where}: no layer of the body has parameters; a block needs a player."
            )
        skip, steps = value, []
        if block.shortcut:
            steps, skip = self._lower_sequence(
                as_layers(block.shortcut), value, f"{where} shortcut"
            )
        at = self._choose_stage(block, len(body), steps, where)
        # Layers of the shortcut act beside the stages of the body from `at` on.
        for offset, ops in enumerate(steps):
            body[at + offset].extend(ops)
        # The sum is part of the last stage: only then are both branches known (paper Eq. 26a).
        merge = AddOp(f"merge of {where}", (trunk, skip), self._new_value())
        body[-1].append(merge)
        return body, merge.target

    def _choose_stage(self, block: Residual, body_length: int, steps: Steps, where: str) -> int:
        """The stage of the body beside which the first layer of a shortcut acts."""
        last = body_length - max(len(steps), 1)
        if block.at == BANDIT:
            if not any(map(_has_player, steps)) or last < 1:
                raise NetworkError(
                    f"{where}: at={BANDIT!r} has nothing to choose; a shortcut with "
                    f"{len(steps)} parametric layer(s) beside {body_length} parametric stage(s) "
                    "of the body can act in one place. Leave `at` out."
                )
            number = len(self.placement_counts)
            self.placement_counts.append(last + 1)
            return self._placement[number] if number < len(self._placement) else 0
        at = block.at
        assert isinstance(at, int)
        if not 0 <= at < body_length:
            raise NetworkError(
                f"{where}: at={at} is out of range; the body has {body_length} parametric "
                f"stage(s), so `at` may be 0 to {body_length - 1}."
            )
        if at > last:
            raise NetworkError(
                f"{where}: a shortcut with {len(steps)} parametric layers placed at="
                f"{at} needs {at + len(steps)} stages of the body, which has "
                f"{body_length}. Place it earlier or lengthen the body."
            )
        return at

    def _lower_cooperative(
        self, block: Cooperative, value: ValueId, where: str
    ) -> tuple[Steps, ValueId]:
        player_ops: list[PlayerOp] = []
        # All members read one value and write one each, so they act in one stage.
        for index, module in enumerate(block.players):
            place = f"{where}[{index}]"
            if isinstance(module, tuple(MODE_DEPENDENT_LAYERS)):
                raise NetworkError(
                    f"{place}: nn.{layer_label(module)} cannot be a member of a cooperative block; "
                    "put it before or after the block."
                )
            name = self._namer.name_player(module, place)
            player_ops.append(PlayerOp(name, module, value, self._new_value()))
        outputs = tuple(player_op.target for player_op in player_ops)
        total = AddOp(f"sum of {where}", outputs, self._new_value())
        return [[*player_ops, total]], total.target

    def _lower_parallel(self, block: Parallel, value: ValueId, where: str) -> tuple[Steps, ValueId]:
        stages: Steps = []
        outputs: list[ValueId] = []
        for index, branch in enumerate(block.branches):
            place = f"{where}, branch {index}"
            steps, output = self._lower_sequence(as_layers(branch), value, place)
            outputs.append(output)
            stages += [[] for _ in range(len(steps) - len(stages))]
            for ops, of_branch in zip(stages, steps, strict=False):
                ops += of_branch
        if not any(map(_has_player, stages)):
            raise NetworkError(f"{where}: no branch has parameters; a block needs a player.")
        merge_op = AddOp if block.merge == "sum" else ConcatenateOp
        merge = merge_op(f"{block.merge} of {where}", tuple(outputs), self._new_value())
        stages[-1].append(merge)
        return stages, merge.target


def _has_player(step: list[StageOp]) -> bool:
    return any(isinstance(op, PlayerOp) for op in step)


def _join_steps(steps: Steps, new_steps: Steps) -> Steps:
    """Appends steps; one without a player joins the step before it, or the one after it."""
    for ops in new_steps:
        # A step without a player is the head of a block, or functions after a player.
        if steps and (not _has_player(ops) or not _has_player(steps[-1])):
            steps = [*steps[:-1], [*steps[-1], *ops]]
        else:
            steps = [*steps, ops]
    return steps
