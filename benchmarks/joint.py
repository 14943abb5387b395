"""Step time and memory of the joint game, interleaved with its residuals and rows alone.

    python benchmarks/joint.py [--rounds N] [--only TEXT] [--gram float32] [--memory] [--regression]

A step computes residuals and rows, the Gram matrix, its factorization and a line search. The ratio
says what the game adds to derivatives that any method of this kind needs. `--memory` compiles a
step with 4000 outputs and 118 145 parameters and prints what the compiler plans for it, beside
2 (chunk p + m^2) numbers. `--regression` measures steps of plain networks, written as one term and
as a function of losses, beside the gradient of the same batch.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab.studies.step_timing import (
    batch_update_step,
    compile_step,
    median_ratio,
    time_interleaved,
)


class Problem(NamedTuple):
    """A Poisson equation on the unit cube.

    Attributes:
        widths: of the layers, from the number of coordinates to 1.
        inside: number of points inside.
        edge: number of points on the boundary.
        dtype: of the parameters.
    """

    widths: Sequence[int]
    inside: int
    edge: int
    dtype: Any = np.float64


PROBLEMS = {
    "2-D, 64-64, 400 + 100": Problem((2, 64, 64, 1), 400, 100),
    "2-D, 64-64-48-48, 900 + 120": Problem((2, 64, 64, 48, 48, 1), 900, 120),
    "5-D, 64-64-48-48, 700 + 300": Problem((5, 64, 64, 48, 48, 1), 700, 300),
    "10-D, 256-256-128-128, 100 + 50": Problem((10, 256, 256, 128, 128, 1), 100, 50),
    "2-D, 64-64, 400 + 100, float32": Problem((2, 64, 64, 1), 400, 100, np.float32),
}
REGRESSIONS = {
    "64-256-256-1, 256 samples": ((64, 256, 256, 1), 256),
    "64-128-128-10, 64 samples": ((64, 128, 128, 10), 64),
    "2-64-64-1, 1024 samples": ((2, 64, 64, 1), 1024),
}
"""Widths and numbers of samples of networks that are fitted to ones, in float32."""

LARGE = Problem((10, 256, 256, 128, 128, 1), 3600, 400)
CHUNK = 256


def network(params: Any, x: jax.Array) -> jax.Array:
    """A network with tanh, from one point to a number."""
    for weights, bias in params[:-1]:
        x = jnp.tanh(x @ weights + bias)
    weights, bias = params[-1]
    return (x @ weights + bias)[0]


def poisson(params: Any, x: jax.Array) -> jax.Array:
    """The Laplacian plus the source."""

    def second_derivative(direction: jax.Array) -> jax.Array:
        def along(y: jax.Array) -> jax.Array:
            return jax.jvp(lambda y: network(params, y), (y,), (direction,))[1]

        return jax.jvp(along, (x,), (direction,))[1]

    laplacian = jax.vmap(second_derivative)(jnp.eye(x.size, dtype=x.dtype)).sum()
    return laplacian + x.size * np.pi**2 * jnp.sin(np.pi * x).prod()


TERMS = {"boundary": network, "pde": poisson}


def make_params(problem: Problem) -> Any:
    """Random parameters."""
    rng = np.random.default_rng(0)
    layers = zip(problem.widths, problem.widths[1:], strict=False)
    return [
        (
            jnp.asarray(rng.normal(size=(m, n)) / np.sqrt(m), problem.dtype),
            jnp.zeros(n, problem.dtype),
        )
        for m, n in layers
    ]


def make_batch(problem: Problem) -> dict[str, jax.Array]:
    """Random points."""
    rng = np.random.default_rng(1)
    sizes = {"boundary": problem.edge, "pde": problem.inside}
    shape = problem.widths[0]
    return {name: jnp.asarray(rng.random((n, shape)), problem.dtype) for name, n in sizes.items()}


def residuals_and_rows(params: Any, batch: Any) -> Any:
    """What a step of any method of this kind computes first."""
    return {
        name: jax.vmap(jax.value_and_grad(TERMS[name]), (None, 0))(params, batch[name])
        for name in TERMS
    }


def measure(problem: Problem, rounds: int, **options: Any) -> tuple[float, float, float]:
    """Seconds of rows alone, and the ratios of time and of planned memory."""
    params, batch = make_params(problem), make_batch(problem)
    tx = gt.joint(TERMS, **options)
    state = tx.init(params)
    steps, memory = {}, {}
    steps["rows"], memory["rows"] = compile_step(residuals_and_rows, params, batch)
    steps["step"], memory["step"] = compile_step(batch_update_step(tx), params, state, batch)
    seconds = time_interleaved(steps, rounds)
    ratio = median_ratio(seconds["step"], seconds["rows"])
    return float(np.median(seconds["rows"])), ratio, memory["step"] / memory["rows"]


def print_regression(name: str, rounds: int) -> None:
    """The time of a gradient, and of steps in both forms."""
    widths, count = REGRESSIONS[name]
    params = make_params(Problem(widths, 0, 0, np.float32))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(count, widths[0])), np.float32)

    def outputs(params: Any, x: jax.Array) -> jax.Array:
        for weights, bias in params[:-1]:
            x = jnp.tanh(x @ weights + bias)
        return x @ params[-1][0] + params[-1][1]

    def losses(params: Any, x: jax.Array) -> gt.Losses:
        return gt.Losses(outputs(params, x), lambda o: jnp.square(o - 1).sum(-1) / 2)

    as_term, as_losses = (
        gt.joint(terms, 1e-3) for terms in (lambda params, x: outputs(params, x) - 1, None)
    )
    steps = {
        "gradient": compile_step(gt.value_and_grad(losses), params, x)[0],
        "term": compile_step(batch_update_step(as_term), params, as_term.init(params), x)[0],
        "losses": compile_step(
            lambda params, state: as_losses.update(
                None, state, params, losses=lambda params: losses(params, x)
            ),
            params,
            as_losses.init(params),
        )[0],
    }
    seconds = time_interleaved(steps, rounds)
    milliseconds = {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}
    print(f"{name:34s}", "  ".join(f"{name} {ms:7.1f} ms" for name, ms in milliseconds.items()))


def print_memory() -> None:
    """What the compiler plans for a large step in chunks."""
    params, batch = make_params(LARGE), make_batch(LARGE)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    outputs = LARGE.inside + LARGE.edge
    tx = gt.joint(TERMS, chunk=CHUNK)
    _, mebibytes = compile_step(batch_update_step(tx), params, tx.init(params), batch)
    bound = 2 * (CHUNK * numbers + outputs**2) * 8 / 2**20
    print(f"m = {outputs}, p = {numbers}, chunk = {CHUNK}: {mebibytes:.0f} MiB of {bound:.0f} MiB")


def main() -> None:
    """Print a line per problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default="", help="problems whose name contains this text")
    parser.add_argument("--gram", choices=("float32", "float64"), default="float64")
    parser.add_argument("--memory", action="store_true", help="only the memory of a large step")
    parser.add_argument("--regression", action="store_true", help="only plain networks")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.memory:
        print_memory()
        return
    if options.regression:
        for name in REGRESSIONS:
            print_regression(name, options.rounds)
        return
    for name, problem in PROBLEMS.items():
        if options.only in name:
            seconds, time, memory = measure(problem, options.rounds, gram_dtype=options.gram)
            figures = f"rows {seconds * 1e3:7.1f} ms  step {time:5.2f}x  memory {memory:5.2f}x"
            print(f"{name:34s} {figures}", flush=True)


if __name__ == "__main__":
    main()
