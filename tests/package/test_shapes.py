"""The shapes in the signatures are true: a step of each game is traced with all of them checked."""

from pathlib import Path

import pytest

from tests.conftest import RunPython

SCRIPT = Path(__file__).with_name("checked_steps.py")

WRONG = """
from jaxtyping import install_import_hook
install_import_hook("gtddp_jax", "beartype.beartype")
import jax.numpy as jnp
import gtddp_jax as gt
loss = lambda outputs: jnp.square(outputs).sum(-1)
gt.terminal.GradientHessian().expand(loss, jnp.ones((4, 3))).derivative(jnp.ones((4, 1)))
"""


@pytest.mark.slow
def test_a_step_of_each_game_keeps_to_its_signatures(run_python: RunPython) -> None:
    result = run_python(str(SCRIPT), timeout=600)
    assert result.returncode == 0, result.stderr[-5000:]
    parts = ["curvatures", "layers", "flax_models", "implicit", "joint", "reference"]
    assert result.stdout.split() == parts


@pytest.mark.slow
def test_a_wrong_shape_is_found(run_python: RunPython) -> None:
    result = run_python("-c", WRONG, timeout=300)
    assert "TypeCheckError" in result.stderr
