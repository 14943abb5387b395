"""Terminal models: the loss of each sample along its own gradient (DESIGN §4)."""

from collections.abc import Callable

from gtddp_jax.terminal.base import Expansion, Terminal
from gtddp_jax.terminal.gradient import gradient
from gtddp_jax.terminal.line import line
from gtddp_jax.terminal.projected import projected

TERMINALS: dict[str, Callable[..., Terminal]] = {
    "gradient": gradient,
    "projected": projected,
    "line": line,
}
"""All terminal models by name."""

__all__ = ["TERMINALS", "Expansion", "Terminal", "gradient", "line", "projected"]
