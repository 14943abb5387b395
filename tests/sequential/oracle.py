"""Compares the library with the dense reference, step by step."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.sequential import zoo
from tests.sequential.methods import Facts, Memory, Method, Vector

Tree = Any


class Game(NamedTuple):
    """The settings of a comparison.

    Attributes:
        loss: a loss of `zoo.LOSSES`, or a function like them.
        method: the base method.
        terminal: "gradient", "projected" or "exact_loss".
        rollout: "linear" or "nonlinear".
        max_shift: of the exact-loss terminal model.
        decay: the running cost is `decay / 2 |u|^2`.
        self_response: whether stages respond to their own steps.
        bounds: bounds of psi' for the exact-loss terminal model.
        units: a factor on the model's Hessian, in the dense reference only.
    """

    loss: str | Callable[[Any, Any], jax.Array]
    method: Method
    terminal: str = "projected"
    rollout: str = "linear"
    max_shift: float | None = None
    decay: float = 0.0
    self_response: bool = False
    bounds: tuple[float, float] | None = None
    units: Any = 1.0

    @property
    def loss_fn(self) -> Callable[[Any, Any], jax.Array]:
        """The loss itself."""
        return zoo.LOSSES[self.loss] if isinstance(self.loss, str) else self.loss


def owned(params: Tree, stage: gt.Stage) -> Facts:
    """The parameters of one stage, in the order in which the reference flattens them."""
    own = {name: params[name] for name in stage.players}
    labels = {
        name: jax.tree.map(lambda leaf, i=i: np.full(leaf.shape, i), own[name])
        for i, name in enumerate(sorted(own))
    }
    owner = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(labels)])
    return Facts(ravel_pytree(own)[0], owner)


class Dense(NamedTuple):
    """One step of the dense reference.

    Attributes:
        steps: the changes of the parameters.
        memories: those after the step.
        diagonals: of each stage, P at the open gradient.
    """

    steps: Tree
    memories: list[Memory]
    diagonals: list[Vector]


def dense_step(problem: zoo.Problem, game: Game, params: Tree, memories: list[Memory]) -> Dense:
    """One step of the dense reference."""
    closed: dict[int, Vector] = {}
    diagonals: dict[int, Vector] = {}
    method, loss = game.method, game.loss_fn

    def gains(t: int, q: Vector, own: Any = None, value: Any = None) -> gt.reference.Gains:
        facts = owned(params, problem.net.stages[t])
        k, diagonal = method.gains(q, memories[t], facts)
        closed[t], diagonals[t] = q, diagonal

        def closed_loop_step(after: Vector) -> Vector:
            if method.is_open:
                return k - diagonal * (after - q)
            closed[t] = after
            return method.gains(after, memories[t], facts)[0]

        return gt.reference.Gains(k, jnp.diag(diagonal), closed_loop_step)

    running = jax.tree.map(lambda u: game.decay * u, params)
    stages = problem.net.bind(problem.batch_stats, train=True)

    def losses(outputs: jax.Array) -> jax.Array:
        return loss(outputs, problem.y)

    if game.terminal == "exact_loss" or game.self_response or problem.net.has_batch_stats:
        steps = gt.reference.collapsed_step(
            stages,
            params,
            problem.x,
            losses,
            gains,
            terminal=game.terminal,
            max_shift=game.max_shift,
            running_gradient=running,
            rollout=game.rollout,
            self_response=game.self_response,
            bounds=game.bounds,
            coupled_stages=problem.net.coupled_stages,
        )
    else:

        def hessian(losses: Any, outputs: jax.Array) -> jax.Array:
            return game.units * gt.reference.HESSIANS[game.terminal](losses, outputs)

        steps = gt.reference.ddp_step(
            stages,
            params,
            problem.x,
            losses,
            hessian,
            gains,
            running_gradient=running,
            rollout=game.rollout,
        ).steps
    after = [method.after(closed[t], memory) for t, memory in enumerate(memories)]
    return Dense(steps, after, [diagonals[t] for t in range(len(memories))])


def optimizer(problem: zoo.Problem, game: Game, *, feedback: bool = True) -> Any:
    """The library's optimizer for the same settings."""
    bounds = {"max_shift": game.max_shift, "bounds": game.bounds}
    options = bounds if game.terminal == "exact_loss" else {}
    return gt.gtddp(
        problem.net,
        game.loss_fn,
        game.method.curvature,
        equilibrium="feedback" if feedback else "open_loop",
        terminal=gt.terminal.TERMINALS[game.terminal](**options),
        rollout=game.rollout,
        self_response=game.self_response,
        batch_stats=problem.batch_stats,
    )


def relative_error(got: Tree, want: Tree) -> float:
    """The largest relative error of any player's raveled update."""
    assert got.keys() == want.keys()
    errors = []
    for name in want:
        a, b = (np.asarray(ravel_pytree(tree[name])[0]) for tree in (got, want))
        assert a.shape == b.shape and np.linalg.norm(b) > 0, name
        errors.append(np.linalg.norm(a - b) / np.linalg.norm(b))
    return max(errors)


def compare(
    problem: zoo.Problem, games: Mapping[str, Game], *, steps: int = 1, spread: float = 0.05
) -> None:
    """Asserts that the library and the dense reference agree to 1e-9 for some steps.

    The sample weights must differ by `spread` in every step, and feedback must change the step in
    at least one; otherwise the comparison could not distinguish the game from plain descent. (Not
    in every step: the first steps of Adam and RMSprop are little more than signs.) All games are
    compiled together, so that they share their forward and backward passes.
    """
    feedback = dict.fromkeys(games, 0.0)
    tables = {label: optimizer(problem, game) for label, game in games.items()}
    tuples = {label: (problem.params, tx.init(problem.params)) for label, tx in tables.items()}
    memories = {
        label: [
            game.method.start(owned(problem.params, stage).u.size) for stage in problem.net.stages
        ]
        for label, game in games.items()
    }

    @jax.jit
    def library(now: dict[str, tuple[Tree, Any]]) -> dict[str, tuple[Tree, Any]]:
        def one(tx: Any, game: Game, params: Tree, state: Any) -> tuple[Tree, Any]:
            running = jax.tree.map(lambda u: game.decay * u, params)
            return tx.update(running, state, params, batch=(problem.x, problem.y))

        return {label: one(tables[label], games[label], *now[label]) for label in games}

    @jax.jit
    def dense(params: dict[str, Tree], memories: dict[str, list[Memory]]) -> dict[str, Any]:
        return {
            label: dense_step(problem, games[label], params[label], memories[label])
            for label in games
        }

    for _ in range(steps):
        params = {label: now[0] for label, now in tuples.items()}
        ours, theirs = library(tuples), dense(params, memories)
        for label, (got, state) in ours.items():
            want, memories[label], _ = theirs[label]
            report = state.report
            assert not report.skipped
            figures = (
                f"{label}: weights {report.sample_weight_min:.3f} to {report.sample_weight_max:.3f}"
            )
            error = relative_error(got, want)
            assert error < 1e-9, f"{figures}, relative error {error:.1e}"
            assert report.sample_weight_max - report.sample_weight_min > spread, figures
            feedback[label] = max(feedback[label], float(report.feedback_ratio.max()))
            tuples[label] = (jax.tree.map(jnp.add, params[label], got), state)
    assert min(feedback.values()) > 1e-3, feedback
