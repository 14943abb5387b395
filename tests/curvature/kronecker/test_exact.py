"""The sequential game with Kronecker curvature equals the dense definition of its steps."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.curvature.kronecker import formulas
from tests.curvature.kronecker.formulas import Formula, Memory
from tests.sequential import oracle, zoo

Tree = Any
BATCH = 7  # factors of full rank: in a null space the eigenvectors would be arbitrary
GAMES = {
    "exact": (Formula("exact", momentum=0.9, factor_decay=0.6), "projected", "linear"),
    "factored": (Formula("factored", factor_decay=0.6), "gradient", "nonlinear"),
    "running": (Formula("running", momentum=0.5), "gradient", "linear"),
    "per_example": (Formula("per_example", factor_decay=0.6), "projected", "nonlinear"),
}
LOSS = zoo.LOSSES["squared"]


def dense_step(
    p: zoo.Problem, params: Tree, memories: list[Memory], formula: Formula, terminal: str, roll: str
) -> tuple[Tree, list[Memory]]:
    """One step of the definition, with the dense matrices of the formula."""
    stages, after = p.net.stages, list(memories)
    states: list[tuple[jax.Array, ...]] = [(p.x,)]
    for stage in stages:
        states.append(stage(params, states[-1]))

    def gains(t: int, q: jax.Array, own: Any, value: jax.Array) -> gt.reference.Gains:
        del own
        found = formulas.blocks(stages[t], params, states[t], value)
        u, _ = ravel_pytree({name: params[name] for name in stages[t].players})
        k, inverse, after[t] = formulas.policy(formula.of_stage(t), memories[t], found, q, u)
        return gt.reference.Gains(k, inverse, lambda closed: k - inverse @ (closed - q))

    hessian = gt.reference.HESSIANS[terminal]
    steps = gt.reference.ddp_step(
        stages, params, p.x, lambda o: LOSS(o, p.y), hessian, gains, rollout=roll
    ).steps
    return steps, after


def compare(p: zoo.Problem, games: dict[str, Any], steps: int, **options: Any) -> None:
    """The library and the definition agree to 1e-8, and feedback is not negligible."""
    tables: dict[str, Any] = {
        label: gt.gtddp(
            p.net,
            LOSS,
            formulas.curvature(formula, **options),
            terminal=gt.terminal.TERMINALS[terminal](),
            rollout=roll,
        )
        for label, (formula, terminal, roll) in games.items()
    }

    @jax.jit
    def library(now: dict[str, Any]) -> dict[str, Any]:
        return {
            label: tables[label].update(None, state, params, batch=(p.x, p.y))
            for label, (params, state) in now.items()
        }

    def dense(now: dict[str, Any], memories: dict[str, list[Memory]]) -> dict[str, Any]:
        counts = {label: [m.steps for m in each] for label, each in memories.items()}

        @jax.jit
        def run(params: dict[str, Tree], rest: dict[str, Any]) -> dict[str, Any]:
            found = {}
            for label, (formula, terminal, roll) in games.items():
                mine = [
                    m._replace(steps=c) for m, c in zip(rest[label], counts[label], strict=True)
                ]
                found[label] = dense_step(p, params[label], mine, formula, terminal, roll)
            return found

        out = run({label: now[label][0] for label in games}, memories)
        return {
            label: (
                want,
                [m._replace(steps=c + 1) for m, c in zip(after, counts[label], strict=True)],
            )
            for label, (want, after) in out.items()
        }

    now = {label: (p.params, tx.init(p.params)) for label, tx in tables.items()}
    memories = {
        label: [formulas.start(stage, p.params) for stage in p.net.stages] for label in games
    }
    for _ in range(steps):
        ours, theirs = library(now), dense(now, memories)
        for label, (got, state) in ours.items():
            want, memories[label] = theirs[label]
            assert not state.report.skipped, label
            error = oracle.relative_error(got, want)
            assert error < 1e-8, f"{label}: relative error {error:.1e}"
            if len(p.net.stages) > 1:
                assert state.report.feedback_ratio.max() > 1e-3, label
            now[label] = (jax.tree.map(jnp.add, now[label][0], got), state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps"),
    [("small", 2), ("cooperative", 1), ("conv_small", 2), ("conv_grouped", 1), ("tokens", 1)],
)
def test_game_equals_the_dense_definition(name: str, steps: int) -> None:
    compare(zoo.problem(name, batch=BATCH), GAMES, steps)


@pytest.mark.slow
def test_positions_may_be_reduced() -> None:
    games = {
        kind: (Formula(kind, positions="reduce"), "projected", "linear")
        for kind in ("exact", "running")
    }
    compare(zoo.problem("tokens", batch=BATCH), games, steps=1)


@pytest.mark.slow
def test_statistics_and_bases_have_their_own_periods() -> None:
    games = {
        kind: (
            Formula(kind, factor_decay=0.7, factors_every=2, refresh_every=3),
            "projected",
            "linear",
        )
        for kind in ("exact", "running", "per_example")
    }
    compare(zoo.problem("small", batch=BATCH), games, steps=4)


@pytest.mark.slow
def test_stages_take_turns_in_their_periods() -> None:
    """Each stage updates and decomposes its factors at its own place in the period."""
    offsets = ((0, 0), (0, 2), (1, 1))
    games = {
        kind: (
            Formula(kind, factor_decay=0.7, factors_every=2, refresh_every=4, offsets=offsets),
            "projected",
            "linear",
        )
        for kind in ("exact", "running")
    }
    compare(zoo.problem("small", batch=BATCH), games, steps=5, stagger=True)


def test_rates_and_damping_may_be_schedules() -> None:
    """Gain, feedback and damping of a step all use the schedules' values at that step."""
    formula = Formula("exact", rate=lambda n: 0.3 / (1 + n), gamma=lambda n: 0.2 / (1 + n))
    compare(zoo.problem("tiny", batch=BATCH), {"exact": (formula, "projected", "linear")}, steps=2)
