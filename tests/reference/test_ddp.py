"""The dense reference against autodiff: where DDP is exact, one step reaches the minimizer."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.sequential import methods, oracle, zoo

SIZES = ((2, 2), (3, 1), (2, 3), (1, 2))  # of u_t and of the trunk state after stage t
WIDTH = 3
exact = gt.reference.HESSIANS["exact"]


class Affine:
    """`z <- A z + B u`, the players' only parameter `u` shared by all samples.

    The first stage also passes its input on as a second state; the last stage adds it.
    """

    def __init__(self, t: int, rng: np.random.Generator) -> None:
        inner = WIDTH if t == 0 else SIZES[t - 1][1]
        self.t, self.last = t, t == len(SIZES) - 1
        self.players = (f"u{t}",)
        self.a = jnp.asarray(rng.normal(size=(inner, SIZES[t][1])))
        self.b = jnp.asarray(rng.normal(size=SIZES[t]))
        self.c = jnp.asarray(rng.normal(size=(WIDTH, SIZES[t][1])))

    def __call__(self, params: Any, states: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        z, r = states if self.t else states * 2
        z = z @ self.a + (params[self.players[0]] @ self.b)[None]
        return (z + r @ self.c,) if self.last else (z, r)


class Linear:
    """A linear-quadratic problem: stages, parameters, metrics, inputs and a quadratic loss."""

    def __init__(self, batch: int) -> None:
        rng = np.random.default_rng(1)
        self.stages: Sequence[Any] = [Affine(t, rng) for t in range(len(SIZES))]
        self.params = {f"u{t}": jnp.asarray(rng.normal(size=m)) for t, (m, _) in enumerate(SIZES)}
        self.running = {
            name: jnp.asarray(rng.normal(size=u.shape)) for name, u in self.params.items()
        }
        self.x = jnp.asarray(rng.normal(size=(batch, WIDTH)))
        self.y = jnp.asarray(rng.normal(size=(batch, SIZES[-1][1])))
        root = jnp.asarray(rng.normal(size=(SIZES[-1][1],) * 2))
        self.weight = root @ root.T
        self.metrics = []
        for m, _ in SIZES:
            root = jnp.asarray(rng.normal(size=(m, m)))
            self.metrics.append(root @ root.T + jnp.eye(m))

    def loss(self, outputs: jax.Array) -> jax.Array:
        r = outputs - self.y
        return jnp.einsum("bi,ij,bj->b", r, self.weight, r)

    def cost_to_go(self, t: int, states: tuple[jax.Array, ...], steps: Any) -> jax.Array:
        """Loss and quadratic costs of stages t, t+1, ... from `states`, for changes `steps`."""
        total = jnp.zeros(())
        for s in range(t, len(self.stages)):
            name = f"u{s}"
            states = self.stages[s]({name: self.params[name] + steps[name]}, states)
            metric = 0.5 * steps[name] @ self.metrics[s] @ steps[name]
            total = total + self.running[name] @ steps[name] + metric
        return total + self.loss(states[0]).mean()

    def least(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """V_x, V_xx and the optimal steps of stages t, t+1, ..., for each t.

        The cost is quadratic in states and steps together, so its minimum over the steps is the
        Schur complement of their block of the Hessian.
        """

        @jax.jit
        def derivatives() -> list[tuple[jax.Array, jax.Array]]:
            out, states = [], (self.x,)
            for t, stage in enumerate(self.stages):
                names = [f"u{s}" for s in range(t, len(self.stages))]
                zeros = {name: jnp.zeros_like(self.params[name]) for name in names}
                flat, unravel = ravel_pytree((self.flat(states), zeros))

                def cost(flat: jax.Array, t: int = t, unravel: Any = unravel) -> jax.Array:
                    x, steps = unravel(flat)
                    return self.cost_to_go(t, self.unflat(x, t), steps)

                out.append((jax.grad(cost)(flat), jax.hessian(cost)(flat)))
                states = stage(self.params, states)
            return out

        results = []
        for t, (g, h) in enumerate(derivatives()):
            g, h = np.asarray(g), np.asarray(h)
            n = self.x.shape[0] * (WIDTH if t == 0 else SIZES[t - 1][1] + WIDTH)
            steps = -np.linalg.solve(h[n:, n:], g[n:])
            gains = -np.linalg.solve(h[n:, n:], h[n:, :n])
            results.append((g[:n] + h[:n, n:] @ steps, h[:n, :n] + h[:n, n:] @ gains, steps))
        return results

    def flat(self, states: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.concatenate(states, axis=1)

    def unflat(self, x: jax.Array, t: int) -> tuple[jax.Array, ...]:
        return tuple(jnp.split(x, [SIZES[t - 1][1]], axis=1)) if t else (x,)

    def step(self, rollout: str, coupling: str) -> gt.reference.DenseStep:
        @jax.jit
        def step(params: Any) -> gt.reference.DenseStep:
            return gt.reference.ddp_step(
                self.stages,
                params,
                self.x,
                self.loss,
                exact,
                gt.reference.stage_curvature_gains(lambda t: self.metrics[t]),
                running_gradient=self.running,
                rollout=rollout,
                coupling=coupling,
            )

        return step(self.params)


CASES = [(1, "samples"), (1, "batch"), (3, "batch")]


def raveled(steps: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(steps)[0])


@pytest.mark.parametrize(("batch", "coupling"), quick_cases(CASES))
def test_one_step_is_the_minimizer(batch: int, coupling: str) -> None:
    problem = Linear(batch)
    least = problem.least()
    want = least[0][2]
    for rollout in ("linear", "nonlinear"):
        step = problem.step(rollout, coupling)
        assert np.linalg.norm(raveled(step.steps) - want) < 1e-9 * np.linalg.norm(want)
    for t, (v_x, v_xx, _) in enumerate(least):
        np.testing.assert_allclose(step.v_x[t].ravel(), v_x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(step.v_xx[t][0], v_xx, rtol=1e-9, atol=1e-12)


def test_blocks_alone_are_not_the_minimizer() -> None:
    """With more than one sample the block-diagonal V_xx is an approximation."""
    problem = Linear(3)
    want = problem.least()[0][2]
    got = raveled(problem.step("linear", "samples").steps)
    assert np.linalg.norm(got - want) > 1e-3 * np.linalg.norm(want)


@pytest.mark.slow
def test_without_control_the_value_is_the_loss() -> None:
    """Gains of zero: V_x is the gradient of the mean loss, V_xx its Gauss-Newton Hessian (Prop. 1).

    V_xx is exact in the last stage, which is linear.
    """
    problem = zoo.problem("chained")
    zero = gt.reference.preconditioned_gains(lambda t, q: jnp.zeros((q.size, q.size)))

    @jax.jit
    def dense(params: Any) -> gt.reference.DenseStep:
        loss = lambda o: zoo.LOSSES["softmax"](o, problem.y)  # noqa: E731
        return gt.reference.ddp_step(problem.net.stages, params, problem.x, loss, exact, zero)

    step = dense(problem.params)
    states: tuple[jax.Array, ...] = (problem.x,)
    for t, stage in enumerate(problem.net.stages):

        def mean_loss(states: tuple[jax.Array, ...], t: int = t) -> jax.Array:
            for later in problem.net.stages[t:]:
                states = later(problem.params, states)
            return zoo.LOSSES["softmax"](states[0], problem.y).mean()

        want = jnp.concatenate(jax.grad(mean_loss)(states), axis=1)
        np.testing.assert_allclose(step.v_x[t], want, rtol=1e-9, atol=1e-14)
        if t == len(problem.net.stages) - 1:
            for i in range(problem.x.shape[0]):
                full = jax.hessian(mean_loss)(states)[0][0][i, :, i, :]
                np.testing.assert_allclose(step.v_xx[t][i], full, rtol=1e-9, atol=1e-14)
        states = stage(problem.params, states)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(step.steps))


def test_exact_loss_of_a_parabola_is_projected() -> None:
    """For a squared loss psi' is linear, so the two references agree."""
    method = methods.sgd(gt.curvature.SGD(0.2), 0.2)
    problem = zoo.problem("small")
    memories = [
        method.start(oracle.owned(problem.params, stage).u.size) for stage in problem.net.stages
    ]
    steps = {
        terminal: jax.jit(
            functools.partial(oracle.dense_step, problem, oracle.Game("squared", method, terminal)),
        )(problem.params, memories)[0]
        for terminal in ("exact_loss", "projected")
    }
    assert oracle.relative_error(steps["exact_loss"], steps["projected"]) < 1e-9


def test_one_sample_is_a_batch() -> None:
    problem = zoo.problem("small", batch=1)

    @jax.jit
    def steps(params: Any) -> dict[str, Any]:
        gains = gt.reference.preconditioned_gains(lambda t, q: 0.2 * jnp.eye(q.size))
        return {
            coupling: gt.reference.ddp_step(
                problem.net.stages,
                params,
                problem.x,
                lambda o: zoo.LOSSES["softmax"](o, problem.y),
                exact,
                gains,
                coupling=coupling,
            ).steps
            for coupling in ("samples", "batch")
        }

    by = steps(problem.params)
    assert oracle.relative_error(by["batch"], by["samples"]) < 1e-9


@pytest.mark.parametrize("option", ["rollout", "coupling"])
def test_unknown_options_are_named(option: str) -> None:
    problem = Linear(1)
    with pytest.raises(ValueError, match=rf"Invalid {option}: 'other'\. Supported: \('"):
        problem.step(**({"rollout": "linear", "coupling": "batch"} | {option: "other"}))
