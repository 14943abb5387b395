"""Every public optimizer is lowered for accelerators, without one at hand."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from tests.default_run import quick_cases
from tests.robustness.saving.optimizers import CASES, make_run

PLATFORMS = ("cuda", "rocm", "tpu")
CUSTOM_CALL = re.compile(r"custom_call @([\w.]+)")
LINEAR_ALGEBRA = re.compile(
    r"Sharding|cu(solver|blas)\w*|hip(solver|blas)\w*|Cholesky|Eigh|Qr|ProductOfElementary\w*|"
    r"(tpu|mhlo)\.\w+|stablehlo\.\w+|ApproxTopK|annotate_device_placement"
)
"""Targets of calls out of a program that run on the device."""


def calls_from_device(text: str) -> set[str]:
    """The targets of a program's calls that are neither linear algebra nor annotations."""
    return {name for name in CUSTOM_CALL.findall(text) if not LINEAR_ALGEBRA.fullmatch(name)}


@pytest.mark.parametrize("name", quick_cases(sorted(CASES), "ekfac", "implicit", "joint"))
def test_step_lowers_for_every_accelerator(name: str) -> None:
    """Neither calls the host nor computes in float64, which accelerators lack or emulate."""
    with jax.enable_x64(False):
        run = make_run.__wrapped__(name)
        lowered = export.export(run.step, platforms=PLATFORMS)(
            run.params, run.init(), jnp.asarray(0)
        )
    text = lowered.mlir_module()
    assert lowered.platforms == PLATFORMS
    assert not calls_from_device(text)
    assert not re.search(r"[<x]f64", text)


def test_a_host_callback_would_be_found() -> None:
    def step(x: jax.Array) -> jax.Array:
        jax.debug.print("{}", x)
        return 2.0 * x

    with jax.enable_x64(True):
        text = jax.jit(step).lower(jnp.ones((), jnp.float64)).as_text()
    assert calls_from_device(text)
    assert re.search(r"[<x]f64", text)
