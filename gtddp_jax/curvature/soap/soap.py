"""GT-DDP-SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024)."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from typing_extensions import override

from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import Count, Number, PerSample, PlayerTrees, Rate, Tree
from gtddp_jax.core.validation import check_positive
from gtddp_jax.curvature.base import Curvature, CurvatureState, Policy, StageInputs
from gtddp_jax.curvature.diagonal import check_statistics
from gtddp_jax.curvature.learning_rate import check_learning_rate, schedule_value
from gtddp_jax.curvature.soap import leaf_step
from gtddp_jax.curvature.soap.axis_bases import axes_with_basis
from gtddp_jax.curvature.soap.leaf_step import Decays, LeafState, LeafStep
from gtddp_jax.curvature.soap.operator import AxisBasisOperator, LeafOperator
from gtddp_jax.network.protocol import StageIndex


class SOAPState(NamedTuple):
    """The state of one stage.

    Attributes:
        step_count: int32, the number of steps.
        leaves: the state of each array of parameters, in the order of `jax.tree.leaves`.
    """

    step_count: Count
    leaves: tuple[LeafState, ...]


class SOAPStep(NamedTuple):
    """A step of the base method on one gradient.

    Attributes:
        step: the change of the parameters, `{player: tree}`.
        operator: P, in the bases before the step.
        state: the state after it.
    """

    step: PlayerTrees
    operator: AxisBasisOperator
    state: SOAPState


@dataclasses.dataclass(frozen=True)
class SOAP(Curvature):
    """SOAP: `P = eta Q diag(1 / (sqrt(v_hat) + eps)) Q^T`, Q from Shampoo's Gram matrices.

    Each array of parameters with two axes or more has one orthonormal basis per axis: eigenvectors
    of the running mean of `G G^T` over the other axes. Adam acts in these bases; arrays with one
    axis, such as biases, have plain Adam. With `equilibrium="open_loop"` it is SOAP as published
    (Vyas et al. 2024, https://arxiv.org/abs/2409.11321), step by step: the first step only makes
    the bases and moves nothing; eps is added before the bias of v is corrected; bases are those of
    earlier gradients; a refresh is one step of power iteration and QR, and v keeps its values.
    Options of the published code that are missing here: merged axes, bases for vectors, normalized
    steps.

    Unlike KFAC, it needs no layer of a certain kind: every player is supported.

    Args:
        learning_rate: eta, a number or an optax schedule.
        b1: decay of the running mean of Q_u, which enters the open gain only.
        b2: decay of v, the running mean of the squared gradient in the bases.
        eps: added to the root of v.
        weight_decay: decoupled weight decay, which follows the step as in the published code.
        precondition_frequency: number of steps between new bases.
        shampoo_beta: decay of the Gram matrices, or None for `b2`.
        max_precond_dim: axes longer than this have no basis.
        statistics: "closed" makes moments and Gram matrices from the closed gradient, "open" from
            the open one, as for `Adam`. Keyword only.

    Raises:
        ValueError: an argument is out of range; the error names it and what is supported.

    Example:
        >>> import gtddp_jax as gt
        >>> curvature = gt.curvature.SOAP(3e-3)
    """

    learning_rate: Rate
    b1: Number = 0.95
    b2: Number = 0.95
    eps: Number = 1e-8
    weight_decay: Number = 0.01
    precondition_frequency: int = 10
    shampoo_beta: Number | None = None
    max_precond_dim: int = 10000
    statistics: str = dataclasses.field(default="closed", kw_only=True)

    def __post_init__(self) -> None:
        name = "curvature.SOAP"
        check_learning_rate(name, self.learning_rate)
        check_statistics(name, self.statistics)
        check_positive(name, eps=self.eps)
        for field in ("b1", "b2", "shampoo_beta"):
            value = getattr(self, field)
            # Arrays may be traced.
            known = not isinstance(value, jax.Array) and value is not None
            if known and not (isinstance(value, (int, float)) and 0 <= value < 1):
                raise ValueError(f"curvature.SOAP({field}={value!r}): give a number in [0, 1).")
        decay = self.weight_decay
        if not isinstance(decay, jax.Array) and not (
            isinstance(decay, (int, float)) and decay >= 0
        ):
            raise ValueError(f"{name}(weight_decay={decay!r}): give a number >= 0.")
        for field in ("precondition_frequency", "max_precond_dim"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}({field}={value!r}): give an int >= 1.")

    @override
    def init(self, params: PlayerTrees, stage_index: StageIndex) -> CurvatureState:
        del stage_index
        leaves = jax.tree.leaves(params)
        states = [
            leaf_step.init_leaf(leaf, axes_with_basis(leaf.shape, self.max_precond_dim))
            for leaf in leaves
        ]
        return SOAPState(jnp.zeros((), jnp.int32), tuple(states))

    @override
    def policy(self, inputs: StageInputs, state: CurvatureState) -> Policy:
        assert isinstance(state, SOAPState)
        taken = take_stage_step(self, inputs.gradient, state, inputs)
        return SOAPPolicy(taken.step, taken.state, taken.operator, self, state, inputs)

    @override
    def describe(self, params: PlayerTrees, stage_index: StageIndex) -> dict[str, str]:
        del stage_index
        return {name: self._describe_player(tree) for name, tree in params.items()}

    def _describe_player(self, tree: Tree) -> str:
        """The sizes of a player's bases."""
        shapes = [leaf.shape for leaf in jax.tree.leaves(tree)]
        sizes = [
            [str(shape[axis]) for axis in axes_with_basis(shape, self.max_precond_dim)]
            for shape in shapes
        ]
        bases = ", ".join(" x ".join(each) for each in sizes if each)
        return f"SOAP, bases {bases}" if bases else "SOAP, no bases (Adam)"


@dataclasses.dataclass(frozen=True)
class SOAPPolicy(Policy):
    """Steps on the open or on the closed gradient, as `diagonal.DiagonalPolicy` does.

    Attributes:
        open_gain: the base method's step on the open gradient.
        state: its state after that step.
        operator: P.
        curvature: the base method.
        state_before: its state before the step.
        inputs: the stage.
    """

    open_gain: PlayerTrees
    state: CurvatureState
    operator: AxisBasisOperator
    curvature: SOAP
    state_before: SOAPState
    inputs: StageInputs

    @override
    def quadratic_form(self) -> PerSample:
        return self.operator.quadratic_form(self.inputs.tapes, self.inputs.params)

    @override
    def closed_loop_step(
        self, open_gradient: PlayerTrees, closed_gradient: PlayerTrees
    ) -> tuple[PlayerTrees, CurvatureState]:
        if self.curvature.statistics == "open":
            change = {
                name: jax.tree.map(jnp.subtract, closed_gradient[name], open_gradient[name])
                for name in open_gradient
            }
            image = self.operator.multiply_trees(change)
            step = {
                name: jax.tree.map(
                    lambda gain, p: (gain - p).astype(gain.dtype), self.open_gain[name], image[name]
                )
                for name in image
            }
            return step, self.state
        taken = take_stage_step(self.curvature, closed_gradient, self.state_before, self.inputs)
        return taken.step, taken.state


def take_stage_step(
    method: SOAP, gradient: PlayerTrees, state: SOAPState, inputs: StageInputs
) -> SOAPStep:
    """The base method's step on a gradient of the stage.

    Args:
        method: the base method.
        gradient: the open or the closed gradient.
        state: the state before the step.
        inputs: the stage.
    """
    count = state.step_count
    gram_decay = method.b2 if method.shampoo_beta is None else method.shampoo_beta
    decays = Decays(method.b1, method.b2, gram_decay, method.eps)
    leaves, treedef = jax.tree.flatten(gradient)
    axes = [axes_with_basis(leaf.shape, method.max_precond_dim) for leaf in leaves]
    steps = [
        leaf_step.step_leaf(upcast(leaf), before, leaf_axes, count, decays)
        for leaf, before, leaf_axes in zip(leaves, state.leaves, axes, strict=True)
    ]
    rate = schedule_value(method.learning_rate, count)
    # The first step moves nothing at all.
    decay = jnp.where(count > 0, rate * method.weight_decay, 0)

    def update(step: LeafStep, param: jax.Array) -> jax.Array:
        # As published, the parameters decay after the step.
        return (-(1 - decay) * rate * step.direction - decay * upcast(param)).astype(param.dtype)

    params = jax.tree.leaves(dict(inputs.params))
    updates: PlayerTrees = treedef.unflatten(list(map(update, steps, params)))
    operators = [
        LeafOperator((1 - decay) * rate * step.scale, leaf_axes, before.bases)
        for step, before, leaf_axes in zip(steps, state.leaves, axes, strict=True)
    ]
    by_player: PlayerTrees = treedef.unflatten(list(range(len(leaves))))
    operator = AxisBasisOperator(
        {
            name: [operators[number] for number in jax.tree.leaves(numbers)]
            for name, numbers in by_player.items()
        },
        inputs.stage_index.stage.player_ops,
    )
    after = tuple(step.state for step in steps)
    due = (count > 0) & (count % method.precondition_frequency == 0)
    # All arrays share one condition, and so one branch of the program.
    with_bases = jax.lax.switch(
        jnp.where(count == 0, 1, jnp.where(due, 2, 0)),
        [
            lambda: after,
            lambda: tuple(map(leaf_step.first_bases, after)),
            lambda: tuple(map(leaf_step.next_bases, after, axes)),
        ],
    )
    return SOAPStep(updates, operator, SOAPState(count + 1, with_bases))
