"""Wide factors at low rank: a window of vectors, exact to the damping."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.sequential import oracle, zoo

LOSS = zoo.LOSSES["squared"]
WIDTH, OUT, BATCH, ROWS, DECAY, GAMMA, RATE = 20, 3, 4, 6, 0.5, 0.1, 0.3
NET = gt.Network([nn.Dense(OUT)])
OPTIONS: dict[str, Any] = {
    "damping": GAMMA,
    "factor_decay": DECAY,
    "factors_every": 1,
    "refresh_every": 1,
    "full_limit": 8,
    "window_rows": ROWS,
}


class Window:
    """The last `ROWS` inputs with an appended 1, and their weights."""

    def __init__(self) -> None:
        self.rows, self.weights = np.zeros((0, WIDTH + 1)), np.zeros(0)

    def add(self, x: np.ndarray) -> None:
        new = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        self.rows = np.concatenate([self.rows, new])[-ROWS:]
        self.weights = np.concatenate(
            [DECAY * self.weights, np.full(len(x), (1 - DECAY) / len(x))]
        )[-ROWS:]

    @property
    def factor(self) -> np.ndarray:
        """A."""
        weighted = self.weights[:, None] * self.rows
        return self.rows.T @ weighted / self.weights.sum()


def matrix(tree: Any) -> np.ndarray:
    """Kernel and bias as [WIDTH + 1, OUT]."""
    return np.concatenate([tree["kernel"], tree["bias"][None]])


def batches(steps: int) -> list[tuple[jax.Array, jax.Array]]:
    rng = np.random.default_rng(0)
    draw = lambda width: jnp.asarray(rng.normal(size=(BATCH, width)))  # noqa: E731
    return [(draw(WIDTH), draw(OUT)) for _ in range(steps)]


def test_kfac_equals_the_dense_solve() -> None:
    tx: Any = gt.kfac(NET, LOSS, RATE, equilibrium="open_loop", **OPTIONS)
    params = zoo.cast(NET.init(jax.random.key(0), jnp.ones((1, WIDTH))), jnp.float64)
    update = jax.jit(lambda s, p, batch: tx.update(None, s, p, batch=batch))
    state, window, outputs, mass = tx.init(params), Window(), 0.0, 0.0
    for x, y in batches(3):
        g = np.asarray(NET.apply(params, x) - y)
        window.add(np.asarray(x))
        outputs, mass = DECAY * outputs + (1 - DECAY) * g.T @ g / BATCH, DECAY * mass + 1 - DECAY
        curvature = np.kron(window.factor, outputs / mass)
        rows = np.concatenate([x, np.ones((BATCH, 1))], axis=1)
        q = (rows.T @ g / BATCH).ravel()
        want = -RATE * np.linalg.solve(curvature + GAMMA * np.eye(q.size), q)
        updates, state = update(state, params, (x, y))
        got = matrix(updates["Dense_0"]).ravel()
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)
        params = jax.tree.map(jnp.add, params, updates)
    sizes = [leaf.size for leaf in jax.tree.leaves(state)]
    assert max(sizes) <= ROWS * (WIDTH + 1)  # no square matrix of the wide factor anywhere


@pytest.mark.parametrize("mode", quick_cases(["running", "per_example"]))
def test_ekfac_shares_one_moment_outside_of_the_window(mode: str) -> None:
    """Second moments along the window's eigenvectors, their mean over all other directions."""
    tx: Any = gt.ekfac(
        NET, LOSS, RATE, equilibrium="open_loop", mode=mode, scale_decay=0.5, **OPTIONS
    )
    params = zoo.cast(NET.init(jax.random.key(0), jnp.ones((1, WIDTH))), jnp.float64)
    (x, y), (second_x, second_y) = batches(2)
    update = jax.jit(lambda s, p, batch: tx.update(None, s, p, batch=batch))
    _, state = update(tx.init(params), params, (x, y))
    g = np.asarray(NET.apply(params, second_x) - second_y)
    window = Window()
    window.add(np.asarray(x))
    window.add(np.asarray(second_x))
    g_before = np.asarray(NET.apply(params, x) - y)
    outputs = (DECAY * g_before.T @ g_before + g.T @ g) / BATCH / (1 + DECAY)
    values_a, u_a = np.linalg.eigh(window.factor)
    u_a, values_a = u_a[:, -ROWS:], values_a[-ROWS:]
    values_b, u_b = np.linalg.eigh(outputs)
    rows = np.concatenate([second_x, np.ones((BATCH, 1))], axis=1)
    each = np.einsum("bp,bq->bpq", rows, g)
    q = each.mean(0)
    seen = BATCH * (u_a.T @ q @ u_b) ** 2, BATCH * (q**2).sum()
    if mode == "per_example":
        rotated = np.einsum("pi,bpq,qj->bij", u_a, each, u_b)
        seen = (rotated**2).mean(0), (each**2).sum((1, 2)).mean()
    inside = 0.5 * np.outer(values_a, values_b) + 0.5 * seen[0]
    outside = 0.5 * (seen[1] - seen[0].sum()) / ((WIDTH + 1 - ROWS) * OUT)
    projected = u_a @ u_a.T @ q
    want = u_a @ ((u_a.T @ q @ u_b) / (inside + GAMMA)) @ u_b.T
    want = want + (q - projected) / (outside + GAMMA)
    updates, _ = update(state, params, (second_x, second_y))
    np.testing.assert_allclose(matrix(updates["Dense_0"]), -RATE * want, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_feedback_sees_the_same_matrix() -> None:
    """The forms in rho at low rank and at full rank, where both remember the same vectors."""
    net = gt.Network([nn.Dense(12), nn.tanh, nn.Dense(OUT)])
    params = zoo.cast(net.init(jax.random.key(0), jnp.ones((1, WIDTH))), jnp.float64)
    (x, y), *_ = batches(1)
    found = {}
    for label, limit in (("window", 8), ("full", 1024)):
        options: Any = OPTIONS | {"full_limit": limit, "factor_decay": 0.0}
        tx: Any = gt.kfac(net, LOSS, RATE, rollout="linear", **options)
        run = jax.jit(lambda s, p, tx=tx: tx.update(None, s, p, batch=(x, y)))
        found[label], state = run(tx.init(params), params)
        assert state.report.feedback_ratio.max() > 1e-3
    assert oracle.relative_error(found["window"], found["full"]) < 1e-8


def test_a_batch_may_be_larger_than_the_window() -> None:
    """Its curvature is that of as many of its samples as there are rows, the gradient of all."""
    options: Any = OPTIONS | {"window_rows": 3}
    tx: Any = gt.kfac(NET, LOSS, RATE, equilibrium="open_loop", **options)
    params = zoo.cast(NET.init(jax.random.key(0), jnp.ones((1, WIDTH))), jnp.float64)
    ((x, y),) = batches(1)
    updates, _ = jax.jit(lambda s, p: tx.update(None, s, p, batch=(x, y)))(tx.init(params), params)
    g = np.asarray(NET.apply(params, x) - y)
    rows = np.concatenate([x, np.ones((BATCH, 1))], axis=1)
    q = (rows.T @ g / BATCH).ravel()
    errors = []
    for left_out in range(BATCH):
        part = np.delete(rows, left_out, axis=0)
        curvature = np.kron(part.T @ part / 3, g.T @ g / BATCH)
        want = -RATE * np.linalg.solve(curvature + GAMMA * np.eye(q.size), q)
        errors.append(np.abs(matrix(updates["Dense_0"]).ravel() - want).max())
    assert min(errors) < 1e-9 < 1e-3 < np.median(errors)


def test_factored_damping_needs_full_factors() -> None:
    tx: Any = gt.kfac(NET, LOSS, RATE, damping_form="factored", **OPTIONS)
    params = NET.init(jax.random.key(0), jnp.ones((1, WIDTH)))
    with pytest.raises(ValueError, match="only damping_form='exact' is cheap"):
        tx.init(params)
