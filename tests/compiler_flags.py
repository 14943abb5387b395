"""How the programs of tests are compiled: most of them run only a few times."""

from importlib.metadata import version
from typing import Any

_FAST_AND_USUAL: dict[str, tuple[Any, Any]] = {
    "xla_backend_optimization_level": (0, 3),
    "xla_llvm_disable_expensive_passes": (True, False),
    "xla_cpu_use_fusion_emitters": (False, True),
    "xla_cpu_parallel_codegen_split_count": (1, 32),
}
"""By option, the value with which programs compile two to four times as fast, and the usual one."""

if not version("jaxlib").startswith("0.10."):
    # XLA aborts the process where it does not know a flag.
    _FAST_AND_USUAL = {}

COMPILER_FLAGS = " ".join(
    f"--{name}={str(fast).lower()}" for name, (fast, _) in _FAST_AND_USUAL.items()
)
"""The value of XLA_FLAGS, to be set before JAX starts."""

USER_OPTIONS: dict[str, Any] = {name: usual for name, (_, usual) in _FAST_AND_USUAL.items()}
"""Options of `jax.jit` that undo the flags, for two programs that are compared bit for bit."""
