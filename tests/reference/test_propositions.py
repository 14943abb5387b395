"""Propositions 2, 5 and 6 on the dense reference, and their consequences for the library."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.default_run import quick_cases
from tests.sequential import methods, oracle, zoo

RATE = 0.1


def dense(problem: zoo.Problem, hessian: str) -> gt.reference.DenseStep:
    @jax.jit
    def step(params: Any) -> gt.reference.DenseStep:
        return gt.reference.ddp_step(
            problem.net.stages,
            params,
            problem.x,
            lambda o: zoo.LOSSES["softmax"](o, problem.y),
            gt.reference.HESSIANS[hessian],
            gt.reference.preconditioned_gains(lambda t, q: RATE * jnp.eye(q.size)),
        )

    return step(problem.params)


@pytest.mark.slow
def test_proposition_2() -> None:
    """Eq. 9-12 on a residual block of stages 1 to 3, misprints corrected."""
    problem = zoo.problem("long_block")
    step = dense(problem, "exact")
    q_uu, first, last, width = 1 / RATE, 1, 3, 4
    for i in range(problem.x.shape[0]):
        x, r = slice(0, width), slice(width, 2 * width)  # trunk and shortcut state
        v_x, v_xx = step.v_x[last + 1][i], step.v_xx[last + 1][i]  # of the network without shortcut
        v_xr = v_xx
        sum_x, sum_xx = jnp.zeros(width), jnp.zeros((width, width))
        for t in reversed(range(first, last + 1)):
            f_x, f_u, k = step.f_x[t][i][:width, :width], step.f_u[t][i][:width], step.open_gains[t]
            if t == first:  # f_x of the split stage: the trunk's rows, then the copy of x
                np.testing.assert_array_equal(step.f_x[t][i][width:], np.eye(width))
            elif t == last:  # the merge adds the shortcut state
                np.testing.assert_array_equal(step.f_x[t][i][:, r], np.eye(width))
            q_ux = f_u.T @ v_xx @ f_x
            gain = -q_ux / q_uu
            shortcut_gain = -(f_u.T @ v_xr) / q_uu  # G_t, Eq. 9
            if t > first:
                np.testing.assert_allclose(step.feedback_gains[t][i][:, x], gain, rtol=1e-9)
                np.testing.assert_allclose(
                    step.feedback_gains[t][i][:, r], shortcut_gain, rtol=1e-9
                )
            sum_x = sum_x + shortcut_gain.T @ k * q_uu
            sum_xx = sum_xx + shortcut_gain.T @ shortcut_gain * q_uu
            v_x = f_x.T @ v_x + q_ux.T @ k
            v_xx = f_x.T @ v_xx @ f_x + q_ux.T @ gain
            v_xr = f_x.T @ v_xr - gain.T @ shortcut_gain * q_uu  # Eq. 10
        merged_x, merged_xx = step.v_x[last + 1][i], step.v_xx[last + 1][i]
        eq11 = v_x + merged_x - sum_x
        eq12 = v_xx + merged_xx - sum_xx + v_xr + v_xr.T
        np.testing.assert_allclose(step.v_x[first][i], eq11, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(step.v_xx[first][i], eq12, rtol=1e-9, atol=1e-14)
        assert jnp.linalg.norm(sum_x) > 1e-3 * jnp.linalg.norm(eq11)


@pytest.mark.parametrize(
    "name", quick_cases(["feedforward", "chained", "shortcut_at_1", "cooperative"])
)
def test_propositions_5_and_6(name: str) -> None:
    """V_xx = (1/B) c g g^T, c <- c (1 - rho): a minus under the root of Eq. 21-23.

    `rho` sums q^T Q_uu^-1 q over the players of a stage; g is the plain adjoint.
    """
    problem = zoo.problem(name)
    step = dense(problem, "gradient")
    stages, batch = problem.net.stages, problem.x.shape[0]

    @jax.jit
    def gradients(params: Any) -> list[tuple[Any, list[Any]]]:
        """Adjoints of the states before each stage, and per-sample gradients by its players."""
        out, states = [], (problem.x,)
        for t, stage in enumerate(stages):
            own = {name: params[name] for name in stage.players}

            def losses(own: Any, states: Any, t: int = t) -> jax.Array:
                for later in stages[t:]:
                    states = later({**params, **own}, states)
                return zoo.LOSSES["softmax"](states[0], problem.y)

            g = jax.grad(lambda s, own=own, losses=losses: losses(own, s).sum())(states)
            big = [
                jax.grad(lambda own, i=i, s=states, losses=losses: losses(own, s)[i])(own)
                for i in range(batch)
            ]
            out.append((g, big))
            states = stage(params, states)
        return out

    c = np.ones(batch)
    for t, (states, players) in reversed(list(enumerate(gradients(problem.params)))):
        big = np.stack([ravel_pytree(tree)[0] for tree in players])
        c = c * (1 - c / batch * RATE * np.square(big).sum(1))
        g = np.concatenate([np.asarray(s) for s in states], axis=1)
        want = (c / batch)[:, None, None] * g[:, :, None] * g[:, None, :]
        np.testing.assert_allclose(step.v_xx[t], want, rtol=1e-9, atol=1e-15)
    assert c.min() > 0 and c.max() < 0.99


@pytest.mark.parametrize("rollout", quick_cases(ROLLOUTS))
def test_exact_loss_of_a_parabola_is_projected(rollout: str) -> None:
    """For a squared loss psi' is linear along the gradient: 1 + h s."""
    problem = zoo.problem("small", batch=3)
    method = methods.METHODS["sgd_momentum"]

    @jax.jit
    def step(params: Any) -> dict[str, Any]:
        games = {
            terminal: oracle.optimizer(problem, oracle.Game("squared", method, terminal, rollout))
            for terminal in ("exact_loss", "projected")
        }
        return {
            terminal: tx.update(None, tx.init(params), params, batch=(problem.x, problem.y))
            for terminal, tx in games.items()
        }

    by = step(problem.params)
    assert oracle.relative_error(by["exact_loss"][0], by["projected"][0]) < 1e-9
    reports = [by[terminal][1].report for terminal in ("exact_loss", "projected")]
    assert reports[0].sample_weight_max - reports[0].sample_weight_min > 0.05
    for a, b in zip(*map(jax.tree.leaves, reports), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_rho_is_clamped() -> None:
    """Where one step would overshoot the minimum of a loss, c is 0 instead of negative.

    B = 1 and the terminal model `gradient` (h = 1): the last stage has rho = rate |G|^2 > 1, so the
    stage before it weights its gradient by 1 + pi, independently of the first stage.
    """
    problem = zoo.problem("feedforward", batch=1)
    rate = 50.0
    tx: Any = gt.sgd(
        problem.net, zoo.LOSSES["squared"], rate, terminal=gt.terminal.GradientHessian()
    )

    def loss(params: Any) -> jax.Array:
        return zoo.LOSSES["squared"](problem.net.apply(params, problem.x), problem.y)[0]

    @jax.jit
    def both(params: Any) -> tuple[Any, Any]:
        updates, _ = tx.update(None, tx.init(params), params, batch=(problem.x, problem.y))
        return updates, jax.grad(loss)(params)

    updates, grads = both(problem.params)
    size = {name: float(jnp.square(ravel_pytree(g)[0]).sum()) for name, g in grads.items()}
    assert rate * size["Dense_3"] > 1
    want = 1 - rate * size["Dense_3"]
    np.testing.assert_allclose(
        updates["Dense_2"]["kernel"], -rate * want * grads["Dense_2"]["kernel"], rtol=1e-9
    )
