"""An optax transformation as the base of a game: the steps it takes, and those to predict with.

A game asks its base for u(q), the update for a gradient q, more often than it steps, always from
the same state. Most transformations can answer; the others are refused by name.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax
from optax import contrib

from gtddp_jax.core import validation
from gtddp_jax.core.types import Tree

ACCUMULATION = (
    "accumulates gradients, so that it does not respond to most mini-batches and their samples "
    "could not be weighted. Accumulate around everything else, with the object itself as the base: "
    "optax.MultiSteps(optax.adam(1e-3), 4), without .gradient_transformation()"
)
LINE_SEARCH = (
    "searches along the loss, which has no meaning for the steps that a game predicts. Give a "
    "learning rate instead, for example optax.lbfgs(1e-1, linesearch=None)"
)
UNSUPPORTED_STATES: dict[type, tuple[str, str]] = {
    optax.MultiStepsState: ("optax.MultiSteps inside another transformation", ACCUMULATION),
    optax.ApplyEvery: ("optax.apply_every", ACCUMULATION),
    optax.ScaleByBacktrackingLinesearchState: (
        "optax.scale_by_backtracking_linesearch",
        LINE_SEARCH,
    ),
    optax.ScaleByZoomLinesearchState: ("optax.scale_by_zoom_linesearch", LINE_SEARCH),
    optax.LookaheadState: (
        "optax.lookahead",
        "needs pairs of fast and slow parameters. Use its fast optimizer as the base and average "
        "the parameters outside: optax.incremental_update(params, slow_params, 0.5)",
    ),
    contrib.SAMState: (
        "optax.contrib.sam",
        "alternates between steps up and down the loss, and the samples would be weighted for a "
        "step that is taken back. Use the optimizer inside it as the base",
    ),
    contrib.DifferentiallyPrivateAggregateState: (
        "optax.contrib.differentially_private_aggregate",
        "needs one gradient per sample, and a base receives one for the batch; sample weights "
        "would also break its guarantee of privacy. Use it without a game",
    ),
}
"""By the type of their state: transformations that cannot be a base, and why."""

MISSING_ARGUMENT = re.compile(r"keyword-only arguments?: '(\w+)'|(\w+) must be provided")
"""How Python and optax say that a transformation needs a further argument."""


class OptaxBase(NamedTuple):
    """A base with its accumulation of gradients taken apart.

    Attributes:
        owner: whose base it is, for messages.
        transformation: the transformation that takes the steps.
        accumulation: the `optax.MultiSteps` that it came from, or None.
    """

    owner: str
    transformation: optax.GradientTransformationExtraArgs
    accumulation: optax.MultiSteps | None

    def init(self, params: Tree) -> Tree:
        """The initial state; raises if the base cannot be used in a game."""
        # Any: optax's own tree type also admits Python numbers.
        transformation: Any = self.transformation
        state = transformation.init(params)
        refuse_unsupported_states(
            self.owner, state if self.accumulation is None else state.inner_opt_state
        )
        return state

    def compute_update(
        self, gradient: Tree, state: Any, params: Tree, arguments: Mapping[str, object]
    ) -> tuple[Tree, Tree]:
        """The update for a gradient, and the next state.

        Args:
            gradient: the gradient that the base receives.
            state: the base's state.
            params: the parameters.
            arguments: keyword arguments, of which the base takes what it needs.
        """
        return self._call(self.transformation, gradient, state, params, arguments)

    def predict_update(
        self, gradient: Tree, state: Any, params: Tree, arguments: Mapping[str, object]
    ) -> Tree:
        """The update to predict with.

        It is that of `compute_update`, except with an accumulation: then it is the update that
        would follow if the other mini-batches had the same gradient.
        """
        if self.accumulation is None:
            return self.compute_update(gradient, state, params, arguments)[0]
        # optax says in private only whether it takes means or sums.
        if not getattr(self.accumulation, "_use_grad_mean", True):
            steps = self.accumulation._every_k_schedule(state.gradient_step)
            gradient = jax.tree.map(lambda g: (g * steps).astype(g.dtype), gradient)
        inner = self.accumulation.inner_opt
        return self._call(inner, gradient, state.inner_opt_state, params, arguments)[0]

    def _call(
        self,
        transformation: Any,
        gradient: Tree,
        state: Any,
        params: Tree,
        arguments: Mapping[str, object],
    ) -> tuple[Tree, Tree]:
        """The update of a transformation; errors whose cause is known say what to do."""
        try:
            step, after = transformation.update(gradient, state, params, **arguments)
        except Exception as error:
            expected = jax.eval_shape(transformation.init, params)
            validation.check_state_structure(self.owner, state, expected)
            missing = MISSING_ARGUMENT.search(str(error))
            if missing is None or not isinstance(error, (TypeError, ValueError)):
                raise
            name = missing[1] or missing[2]
            raise ValueError(
                f"{self.owner}: the base needs {name}, which only you can give. Call tx.update("
                f"running_cost_gradient, state, params, batch=(inputs, targets), {name}=...)."
            ) from error
        # Some transformations ignore a foreign state and return one of their own.
        validation.check_state_structure(self.owner, state, after)
        return step, after


def as_optax_base(owner: str, base: object) -> OptaxBase:
    """A user's base, checked.

    Args:
        owner: whose base it is, for the message.
        base: an `optax.GradientTransformation` or `optax.MultiSteps`.
    """
    accumulation = None
    # MultiSteps is not itself a transformation, although it has init and update.
    if isinstance(base, optax.MultiSteps):
        accumulation, base = base, base.gradient_transformation()
    if not isinstance(base, optax.GradientTransformation):
        raise ValueError(
            f"{owner}: the base must be an optax.GradientTransformation, got {base!r}; for example "
            "optax.adam(1e-3)."
        )
    return OptaxBase(owner, optax.with_extra_args_support(base), accumulation)


def refuse_unsupported_states(owner: str, state: Tree) -> None:
    """Raises if a part of a base's state belongs to a transformation that cannot be a base."""
    unsupported = tuple(UNSUPPORTED_STATES)
    for part in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, unsupported)):
        if isinstance(part, unsupported):
            transformation, reason = UNSUPPORTED_STATES[type(part)]
            raise ValueError(f"{owner}: {transformation} cannot be used in the base: it {reason}.")
