"""`Sketch`: the influence of the whole network, estimated from a random share of its units.

The sums s0 and n of `Full` run over the units of every layer. Here each layer's sums are taken
over a block of its units, drawn anew in every step, and divided by the share of blocks that a unit
is in, so their mean over all draws is that of `Full`. One backward pass serves the prediction
and, where samples do not influence each other, the weighted gradient too. Derived in
docs/mathematics_games.md, "The implicit game".
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32
from typing_extensions import override

from gtddp_jax.core.types import Count, PerSample
from gtddp_jax.implicit.base_on_blocks import cut_base, is_entrywise
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.implicit.block_influence import BlockInfluence, LeafBlock, draw_blocks
from gtddp_jax.implicit.read_losses import ReadLosses
from gtddp_jax.implicit.weighting.base import (
    FACTORS,
    SampleWeighting,
    WeightingContext,
    WeightPrediction,
    weights_of_influence,
)
from gtddp_jax.implicit.weighting.full import full_influence
from gtddp_jax.tracing.adjoint_pass import AdjointPass
from gtddp_jax.tracing.cuts import Cut
from gtddp_jax.tracing.leaf_blocks import plan_leaves


@dataclasses.dataclass(frozen=True)
class Sketch(SampleWeighting):
    """Predict with a random share of each layer's units.

    Parameters take part whose every use is a product, a convolution, an embedding, a bias or a
    scale, inside of a scan too. The others are trained like all, and are left out of the prediction
    alone. If none takes part, or the batch is a single sample, the whole network predicts as in
    `Full`. Below an operation that couples samples, such as batch normalization, the prediction is
    approximate: it books on a sample what its activations do to the losses of others.

    Args:
        share: share of the units of a layer, in (0, 1]; 1 predicts with all of them. Small layers
            are always taken as a whole.
        factors: "flow", the mean of psi' along the gradient flow of a sample's loss, or "implicit",
            psi' at the end of the step.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import gtddp_jax as gt
        >>> weighting = gt.weighting.Sketch(share=0.25)
    """

    reads_model: ClassVar[bool] = True
    share: float = 0.0625
    factors: str = "flow"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.factors not in FACTORS:
            raise ValueError(
                f"weighting.{self}: share must be in (0, 1], and factors one of {tuple(FACTORS)}."
            )

    @override
    def predict_weights(self, context: WeightingContext) -> WeightPrediction:
        influence = self._estimate(context)
        s0, n = full_influence(context) if influence is None else influence
        return weights_of_influence(context, self.factors, s0, n)

    def _estimate(self, context: WeightingContext) -> tuple[PerSample, PerSample] | None:
        """Estimates of s0 and n; None if no parameter takes part."""
        losses = context.losses
        if not isinstance(losses, ReadLosses):
            return None
        adjoints = losses.propagate()
        plans = [] if adjoints is None else plan_leaves(adjoints.read_fn, self.share)
        if adjoints is None or not plans:
            return None
        blocks = draw_blocks(plans, random_bits(context.step, len(plans)))
        return estimate_influence(losses, adjoints, context.base, blocks)


def random_bits(step: Count, count: int) -> UInt32[Array, " count"]:
    """The random numbers of a step: the same in every run and on every device.

    A hash of the step and the place, in a few operations. JAX's own generator is a loop, which
    takes longer than a pass through a small network.

    Args:
        step: number of the step, not negative.
        count: how many numbers.
    """
    places = jnp.arange(count, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    return _mix(_mix(jnp.asarray(step).astype(jnp.uint32)) ^ places)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of 32-bit numbers in which each bit depends on all bits (lowbias32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def estimate_influence(
    losses: ReadLosses,
    adjoints: AdjointPass,
    base: BaseOptimizer,
    blocks: Sequence[LeafBlock],
) -> tuple[PerSample, PerSample]:
    """s0 and n [B], as in `full_influence`, estimated from blocks of the parameters."""
    influences = [BlockInfluence(adjoints, block) for block in blocks]
    changes = _changes_of_blocks(losses, influences, blocks, base)
    totals = [
        influence.directional_derivatives(change)
        for influence, change in zip(influences, changes, strict=True)
    ]
    s0, response = sum(totals[1:], totals[0])
    return s0 if base.predict_momentum else jnp.zeros_like(s0), -response


def _changes_of_blocks(
    losses: ReadLosses,
    influences: Sequence[BlockInfluence],
    blocks: Sequence[LeafBlock],
    base: BaseOptimizer,
) -> list[list[jax.Array]]:
    """The momentum step and the gradient response of each block."""
    leaves, structure = jax.tree.flatten(base.params)
    # A leaf that takes no part is as short as it can be.
    cuts = [Cut(0, 0, 1) if jnp.ndim(leaf) else Cut(None) for leaf in leaves]
    for block in blocks:
        cuts[block.plan.leaf] = block.cut
    base_on_blocks = cut_base(base, cuts) if is_entrywise(base) else None
    if base_on_blocks is None:
        split = base.split_update(losses.weighted_gradient(None))
        parts = [
            [cut.part(leaf) for cut, leaf in zip(cuts, jax.tree.leaves(tree), strict=True)]
            for tree in split
        ]
    else:
        gradients = [jnp.zeros_like(leaf) for leaf in jax.tree.leaves(base_on_blocks.params)]
        for block, influence in zip(blocks, influences, strict=True):
            total = losses.samples.sum_over_devices(influence.gradient())
            gradients[block.plan.leaf] = total / losses.samples.count
        split = base_on_blocks.split_update(jax.tree.unflatten(structure, gradients))
        parts = [jax.tree.leaves(tree) for tree in split]
    return [[part[block.plan.leaf] for part in parts] for block in blocks]
