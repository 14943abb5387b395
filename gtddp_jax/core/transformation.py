"""A game as an optax transformation: it prints as one line, and hints at steps not compiled."""

import functools
from collections.abc import Callable
from typing import Any

import optax

from gtddp_jax.core.eager_steps import note_step
from gtddp_jax.core.one_line import call_line


class _GameTransformation(optax.GradientTransformationExtraArgs):
    """An optax transformation that says what it is.

    Attributes:
        describe: returns the line that `print` shows. It is not a field, because optax and JAX
            unpack a transformation into its two functions; what they build anew has none.
    """

    describe: Callable[[], str] | None = None

    def __repr__(self) -> str:
        return type(self).__name__ if self.describe is None else self.describe()


def game_transformation(
    name: str, init: Any, update: Any, *arguments: object, **options: object
) -> optax.GradientTransformationExtraArgs:
    """A game as an optax transformation.

    Args:
        name: the function of this library that builds it.
        init: its function `init`.
        update: its function `update`.
        *arguments: what `print` shows without names, such as the base.
        **options: what `print` shows with names.
    """

    @functools.wraps(update)
    def noted_update(updates: Any, state: Any, params: Any = None, **arguments: Any) -> Any:
        step, next_state = update(updates, state, params, **arguments)
        note_step(name, state, next_state)
        return step, next_state

    transformation = _GameTransformation(init, noted_update)
    transformation.describe = lambda: call_line(name, *arguments, **options)
    return transformation
