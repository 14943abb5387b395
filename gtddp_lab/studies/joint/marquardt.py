"""Levenberg-Marquardt of optimistix, if it is installed."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_lab.studies.joint.methods import Advance, StudiedMethod
from gtddp_lab.studies.joint.problem import ResidualProblem, Samples
from gtddp_lab.studies.joint.tanh_network import TanhNetwork

OPTIMISTIX = "optimistix LM"
"""The family."""

MISSING = (
    f"{OPTIMISTIX}: left out, because the package optimistix is not installed; pip install "
    "optimistix adds it to the study."
)


def has_optimistix() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("optimistix") is not None


def marquardt_method(batch_factor: int) -> StudiedMethod:
    """Its Levenberg-Marquardt step with default options; its samples never change.

    Args:
        batch_factor: how many more samples than others it has where these draw new ones.
    """

    def make(
        problem: ResidualProblem, steps: jax.Array
    ) -> tuple[Callable[[TanhNetwork], Any], Advance]:
        del steps
        optimistix: Any = importlib.import_module("optimistix")
        equinox: Any = importlib.import_module("equinox")
        solver = optimistix.LevenbergMarquardt(rtol=1e-12, atol=1e-12)

        def residuals(params: TanhNetwork, samples: Mapping[str, Samples]) -> Any:
            found = []
            for name, term in problem.terms.items():
                values = jax.vmap(term.residual, in_axes=(None, 0))(params, samples[name])
                found.append(jnp.sqrt(term.weight / len(values)) * values.ravel())
            return jnp.concatenate(found), None

        def first_state(params: TanhNetwork, samples: Mapping[str, Samples]) -> Any:
            shapes, _ = jax.eval_shape(residuals, params, samples)
            state = solver.init(residuals, params, samples, {}, shapes, None, frozenset())
            return equinox.partition(state, equinox.is_array)

        def init(params: TanhNetwork) -> Any:
            return first_state(params, problem.draw(jax.random.key(0), batch_factor))[0]

        def advance(params: TanhNetwork, state: Any, samples: Mapping[str, Samples]) -> Any:
            # What is not an array, a program, stays the same in all steps.
            whole = equinox.combine(state, first_state(params, samples)[1])
            params, whole, _ = solver.step(residuals, params, samples, {}, whole, frozenset())
            return params, equinox.filter(whole, equinox.is_array)

        return init, advance

    return StudiedMethod(OPTIMISTIX, "defaults", make, batch_factor=batch_factor)
