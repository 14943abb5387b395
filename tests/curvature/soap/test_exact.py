"""SOAP against its published code, and its game against the dense definition."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.curvature.soap import published
from tests.curvature.soap.published import Options
from tests.sequential import oracle, zoo

Tree = Any
BATCH = 7
LOSS = zoo.LOSSES["squared"]
# The form G^T P G of a stage matters to the stages before it, but for the first.
# Where a gradient is always zero, the steps are rounding errors divided by eps: no layer has fewer
# outputs than the one before it. Kernels of almost square shape have a first gradient whose null
# space has one dimension at most, and so one basis.
SPECS = {
    "dense": zoo.Spec(
        lambda: [
            nn.Dense(3),
            jnp.tanh,
            gt.Residual([nn.Dense(3), jnp.tanh], nn.Dense(3)),
            nn.Dense(3),
            jnp.tanh,
            nn.Dense(4, use_bias=False),
        ]
    ),
    "conv": zoo.Spec(
        lambda: [
            zoo.conv(2, (2, 1)),
            jnp.tanh,
            gt.Residual(
                [zoo.conv(2, (2, 3)), jnp.tanh, zoo.conv(3, (1, 2))], zoo.conv(3, (2, 1)), at=1
            ),
            jnp.tanh,
            zoo.pool,
            nn.Dense(3),
        ],
        (4, 3, 2),
    ),
    "tokens and a gate": zoo.Spec(
        lambda: [nn.Dense(3), jnp.tanh, zoo.Gate(), nn.Dense(4), jnp.tanh, zoo.pool, nn.Dense(4)],
        (3, 2),
    ),
}
VARIANTS = {
    "defaults": Options(lr=0.02),
    "every third step": Options(lr=lambda n: 0.1 / (1 + n), precondition_frequency=3),
    "every step": Options(0.05, (0.8, 0.9), 0.7, 0.03, 0.3, 1),
    "short axes alone": Options(
        0.05, (0.5, 0.9), eps=0.03, max_precond_dim=3, precondition_frequency=2
    ),
}


def curvature(options: Options, statistics: str = "closed") -> gt.curvature.SOAP:
    """The same method in the library."""
    return gt.curvature.SOAP(
        options.lr,
        *options.betas,
        options.eps,
        options.weight_decay,
        options.precondition_frequency,
        None if options.shampoo_beta < 0 else options.shampoo_beta,
        options.max_precond_dim,
        statistics=statistics,
    )


def start(tree: Tree, options: Options) -> list[published.State]:
    """The published state of each array."""
    return [published.start(leaf, options) for leaf in jax.tree.leaves(tree)]


def counted(states: list[published.State]) -> tuple[list[int], list[published.State]]:
    """The numbers of calls, which stay outside of compiled programs, and the rest."""
    return [s["step"] for s in states], [{**s, "step": 0} for s in states]


def take(
    params: Tree, gradient: Tree, states: list[published.State], options: Options
) -> tuple[Tree, jax.Array, list[published.State]]:
    """The published step of a tree: updates, P as a matrix, and the next states."""
    leaves, treedef = jax.tree.flatten(params)
    steps = [
        published.step(p, g, s, options)
        for p, g, s in zip(leaves, jax.tree.leaves(gradient), states, strict=True)
    ]
    matrix = jax.scipy.linalg.block_diag(*(s.preconditioner for s in steps))
    return treedef.unflatten([s.update for s in steps]), matrix, [s.state for s in steps]


def inputs(p: zoo.Problem, number: int) -> jax.Array:
    """Other inputs in each step: a gradient in its own eigenbasis is zero but for rounding."""
    return p.x + jnp.sin(number * (1 + p.x))


@pytest.mark.slow
@pytest.mark.parametrize("net", SPECS)
def test_open_loop_is_the_published_optimizer(net: str) -> None:
    """Over ten steps, bases renewed by eigendecomposition and power iteration."""
    p = zoo.make(SPECS[net], batch=BATCH)
    tables: dict[str, Any] = {
        label: gt.gtddp(p.net, LOSS, curvature(options), equilibrium="open_loop")
        for label, options in VARIANTS.items()
    }
    gradient_of = jax.jit(jax.grad(lambda u, x: LOSS(p.net.apply(u, x), p.y).mean()))

    for label, tx in tables.items():
        update = jax.jit(
            lambda state, params, x, tx=tx: tx.update(None, state, params, batch=(x, p.y)),
        )
        params, state, states = p.params, tx.init(p.params), start(p.params, VARIANTS[label])
        for number in range(10):
            x = inputs(p, number)
            want, _, states = take(params, gradient_of(params, x), states, VARIANTS[label])
            got, state = update(state, params, x)
            assert not state.report.skipped, label
            if number == 0:
                assert not any(leaf.any() for leaf in jax.tree.leaves(got)), label
            else:
                error = oracle.relative_error(got, want)
                assert error < 1e-9, f"{label}, step {number}: relative error {error:.1e}"
            params = jax.tree.map(jnp.add, params, got)


# A gain of 1 / eps along a direction with hardly any gradient would meet the bound of rho.
GAMES = {
    "closed, linear": (VARIANTS["every step"], "closed", "projected", "linear"),
    "closed, nonlinear": (VARIANTS["short axes alone"], "closed", "gradient", "nonlinear"),
    "open, linear": (VARIANTS["every third step"]._replace(eps=0.03), "open", "gradient", "linear"),
    "open, nonlinear": (VARIANTS["every step"], "open", "projected", "nonlinear"),
}

GAMES_OF = {"dense": list(GAMES), "conv": list(GAMES)[1:3], "tokens and a gate": list(GAMES)[::3]}
"""All games on one network; on each of the others, both rollouts and both rules."""


@pytest.mark.slow
@pytest.mark.parametrize("net", SPECS)
def test_feedback_is_the_dense_definition(net: str) -> None:
    p = zoo.make(SPECS[net], batch=BATCH)
    stages = p.net.stages
    games = {label: GAMES[label] for label in GAMES_OF[net]}
    tables: dict[str, Any] = {
        label: gt.gtddp(
            p.net,
            LOSS,
            curvature(options, statistics),
            terminal=gt.terminal.TERMINALS[terminal](),
            rollout=rollout,
        )
        for label, (options, statistics, terminal, rollout) in games.items()
    }

    @jax.jit
    def library(now: dict[str, Any], x: jax.Array) -> dict[str, Any]:
        return {
            label: tables[label].update(None, state, params, batch=(x, p.y))
            for label, (params, state) in now.items()
        }

    def dense_step(label: str, params: Tree, memories: Any, x: jax.Array) -> tuple[Tree, Any]:
        options, statistics, terminal, rollout = games[label]
        after = list(memories)

        def gains(t: int, q: jax.Array, own: Any, value: Any) -> gt.reference.Gains:
            del own, value
            trees = {name: params[name] for name in stages[t].players}
            _, unravel = ravel_pytree(trees)

            def ravel(tree: Tree) -> jax.Array:
                return ravel_pytree(tree)[0]

            step, matrix, after[t] = take(trees, unravel(q), memories[t], options)

            def closed_loop_step(closed: jax.Array) -> jax.Array:
                if statistics == "open":
                    return ravel(step) - matrix @ (closed - q)
                taken, _, after[t] = take(trees, unravel(closed), memories[t], options)
                return ravel(taken)

            return gt.reference.Gains(ravel(step), matrix, closed_loop_step)

        steps = gt.reference.ddp_step(
            stages,
            params,
            x,
            lambda o: LOSS(o, p.y),
            gt.reference.HESSIANS[terminal],
            gains,
            rollout=rollout,
        ).steps
        return steps, after

    def dense(now: dict[str, Any], memories: dict[str, Any], x: jax.Array) -> dict[str, Any]:
        counts = {
            label: [counted(states)[0] for states in each] for label, each in memories.items()
        }
        rest = {label: [counted(states)[1] for states in each] for label, each in memories.items()}

        @jax.jit
        def run(params: dict[str, Tree], rest: dict[str, Any]) -> dict[str, Any]:
            return {
                label: dense_step(label, params[label], numbered(rest[label], counts[label]), x)
                for label in games
            }

        out = run({label: now[label][0] for label in games}, rest)
        return {
            label: (want, numbered(after, [[c + 1 for c in each] for each in counts[label]]))
            for label, (want, after) in out.items()
        }

    def numbered(rest: Any, counts: list[list[int]]) -> Any:
        return [
            [{**state, "step": count} for state, count in zip(states, each, strict=True)]
            for states, each in zip(rest, counts, strict=True)
        ]

    now = {label: (p.params, tx.init(p.params)) for label, tx in tables.items()}
    memories = {
        label: [
            start({name: p.params[name] for name in stage.players}, games[label][0])
            for stage in stages
        ]
        for label in games
    }
    for number in range(3):
        x = inputs(p, number)
        ours, theirs = library(now, x), dense(now, memories, x)
        for label, (got, state) in ours.items():
            want, memories[label] = theirs[label]
            assert not state.report.skipped, label
            if number:
                error = oracle.relative_error(got, want)
                assert error < 1e-9, f"{label}, step {number}: relative error {error:.1e}"
                assert state.report.feedback_ratio.max() > 1e-3, label
                spread = state.report.sample_weight_max - state.report.sample_weight_min
                assert spread > 0.01, label
            else:
                assert not any(leaf.any() for leaf in jax.tree.leaves(got)), label
            now[label] = (jax.tree.map(jnp.add, now[label][0], got), state)
