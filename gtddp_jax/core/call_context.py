"""Which optax wrappers a game is called through, read from the call stack.

An optax wrapper passes the inner transformation nothing that identifies the wrapper: not in the
state, the arguments or their types. Some wrappers would make our steps silently wrong, so the call
stack is searched instead. This is the only place that does so, and it runs at trace time only.
"""

import sys
from collections.abc import Mapping, Sized
from typing import Any, NamedTuple

from gtddp_jax.core.types import Tree

CHAINS = ("chain", "named_chain")
"""Wrappers that pass updates from one member to the next."""
TRANSPARENT = (
    *CHAINS,
    "with_extra_args_support",
    "inject_hyperparams",
    "inject_stateful_hyperparams",
    "conditionally_transform",
    "conditionally_mask",
    "apply_if_finite",
    # These hide parameters, which has a message of its own.
    "masked",
    "partition",
    "selective_transform",
)
"""Wrappers that show a game the parameters and take its step as it is, or not at all."""

NEEDS_ARRAYS = ("apply_if_finite", "conditionally_transform", "conditionally_mask")
"""Wrappers in which `updates` must have one structure with the step."""

CHANGED_STEPS = ("mechanize", "schedule_free")
"""Wrappers that replace the step; harmless where nothing predicts it."""

ORDER_MESSAGE = (
    "{name}: something stands after it in an optax.chain and would change the step that the game "
    "has predicted, so that its weights would be those of another step. Put it inside: {inside}."
)
NONE_MESSAGE = (
    "{name}: updates is None inside optax.{wrapper}, which needs an array for each parameter; a "
    "regularizer before the game would be lost. Pass zeros: tx.update(jax.tree.map(jnp.zeros_like, "
    "params), state, params, batch=(inputs, targets)). gtddp_jax.make_update(tx) does so."
)
WRAPPER_MESSAGE = (
    "{name} inside optax's {wrapper} is not supported, because {wrapper} changes the parameters, "
    "the arguments or the step of the game. Wrap the base instead: {inside}."
)
MULTI_STEPS_MESSAGE = (
    "{name} inside optax.MultiSteps would see the last mini-batch only, because MultiSteps "
    "accumulates `updates` and our gradient comes from `batch`. Accumulate inside instead: "
    "{inside}."
)


class OptaxCaller(NamedTuple):
    """A function of optax on the call stack.

    Attributes:
        wrapper: the name of what made it, such as "chain" or "MultiSteps".
        before: number of members before the game, for a chain in `update`; None if unknown.
        after: number of members after the game, likewise.
    """

    wrapper: str
    before: int | None
    after: int | None


def optax_callers() -> list[OptaxCaller]:
    """The functions of optax on the call stack, innermost first."""
    callers = []
    frame = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("optax."):
            # "chain.<locals>.update_fn" was made by `chain`.
            wrapper = frame.f_code.co_qualname.split(".")[0]
            callers.append(OptaxCaller(wrapper, *_chain_position(wrapper, frame.f_locals)))
        frame = frame.f_back
    return callers


def _chain_position(wrapper: str, variables: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The number of members before and after the present one, from a chain's variables."""
    if wrapper not in CHAINS:
        return None, None
    finished = variables.get("new_state")
    members = variables.get("update_fns", variables.get("transforms"))
    # Another version of optax may name them otherwise; then the position is unknown.
    if not isinstance(finished, Sized) or not isinstance(members, Sized):
        return None, None
    before, after = len(finished), len(members) - len(finished) - 1
    return (before, after) if after >= 0 else (None, None)


def refuse_wrappers(name: str, inside: str, *, predicts: bool) -> None:
    """Raises inside a wrapper of optax that would falsify a game's steps.

    Args:
        name: the game, for the message.
        inside: how to build the game around a `{base}`, for the message.
        predicts: whether the game predicts its step.
    """
    for caller in optax_callers():
        if caller.wrapper == "MultiSteps":
            base = "optax.MultiSteps(optax.adam(1e-3), 4)"
            raise ValueError(MULTI_STEPS_MESSAGE.format(name=name, inside=inside.format(base=base)))
        is_harmless = caller.wrapper in CHANGED_STEPS and not predicts
        if caller.wrapper not in TRANSPARENT and not is_harmless:
            base = f"{caller.wrapper}(base, ...)"
            raise ValueError(
                WRAPPER_MESSAGE.format(
                    name=name, wrapper=caller.wrapper, inside=inside.format(base=base)
                )
            )


def refuse_lost_updates(name: str, updates: Tree | None) -> None:
    """Raises if `updates` is None where a wrapper may have lost a regularizer.

    Args:
        name: the game, for the message.
        updates: what the game received.
    """
    if updates is not None:
        return
    for caller in optax_callers():
        # In a chain, an unknown position may be any.
        may_follow = caller.wrapper in CHAINS and caller.before != 0
        if may_follow or caller.wrapper in NEEDS_ARRAYS:
            raise ValueError(NONE_MESSAGE.format(name=name, wrapper=caller.wrapper))


def refuse_later_members(name: str, inside: str) -> None:
    """Raises if a chain changes the step after the game, as far as the position is known.

    Args:
        name: the game, for the message.
        inside: how to build the game around a `{base}`, for the message.
    """
    if any(caller.after for caller in optax_callers()):
        rest = inside.format(base="optax.chain(base, the rest)")
        raise ValueError(ORDER_MESSAGE.format(name=name, inside=rest))
