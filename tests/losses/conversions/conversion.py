"""What a conversion is: a training loop as an example has it, and the same loop with a game.

Both are complete functions, from the loss to the loop, and differ in as few lines as possible. The
models are small, the structure of the steps is that of the examples.
"""

import difflib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

SAMPLES = 6

Steps: TypeAlias = Iterator[tuple[Any, Any, Any]]
"""Endless; for each step what is trained with its statistics, the optimizer's state, metrics."""

Game: TypeAlias = Callable[[optax.GradientTransformation], Any]
"""Wraps an optimizer."""


class Conversion(NamedTuple):
    """A training loop and its conversion.

    Attributes:
        original: without arguments.
        converted: takes the game.
    """

    original: Callable[[], Steps]
    converted: Callable[[Game], Steps]

    def line_counts(self) -> tuple[int, int]:
        """The number of lines written or changed, and of lines that only disappear.

        Lines are compared without indentation, as by `git diff --ignore-all-space`. Empty lines and
        the first line of each function, its name, do not count.
        """
        before, after = (
            [line.strip() for line in inspect.getsource(function).splitlines()[1:] if line.strip()]
            for function in (self.original, self.converted)
        )
        hunks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        sizes = [
            (end - start, stop - begin) for tag, start, end, begin, stop in hunks if tag != "equal"
        ]
        written = sum(new for _, new in sizes)
        return written, sum(max(old - new, 0) for old, new in sizes)


def batches(make: Callable[[np.random.Generator], Any]) -> Iterator[Any]:
    """Batches without end, one a step."""
    rng = np.random.default_rng(0)
    while True:
        yield jax.tree.map(jnp.asarray, make(rng))


def images(rng: np.random.Generator) -> dict[str, Any]:
    """Images [B, 4, 4, 1] with labels."""
    return {
        "image": rng.normal(size=(SAMPLES, 4, 4, 1)),
        "label": rng.integers(0, 3, SAMPLES),
    }


def to_float64(tree: Any) -> Any:
    """The tree with floating-point arrays in float64."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        tree,
    )


def token_batch(rng: np.random.Generator) -> dict[str, Any]:
    """Tokens [B, T] of which 0 is padding, and the tokens that follow."""
    tokens = rng.integers(1, 5, (SAMPLES, 5)) * (np.arange(5) < rng.integers(2, 6, (SAMPLES, 1)))
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
