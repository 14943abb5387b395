"""The misprints of docs/mathematics.md, "10. Misprints in the paper", in numbers.

Each test compares the definition (a quadratic that is minimized, a matrix that is inverted) with
the corrected formula, which equals it, and with the printed one, which does not. Plain NumPy.
"""

from typing import Any

import numpy as np
import optax
import pytest

Matrix = np.ndarray
solve, inv, kron = np.linalg.solve, np.linalg.inv, np.kron


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def positive(rng: np.random.Generator, n: int) -> Matrix:
    root = rng.normal(size=(n, n + 2))
    return root @ root.T


def vec(matrix: Matrix) -> Matrix:
    """Stacks the columns; then A (x) B maps X to B X A^T."""
    return matrix.reshape(-1, order="F")


def check(right: Any, wanted: Any, printed: Any) -> None:
    np.testing.assert_allclose(right, wanted, rtol=1e-9, atol=1e-12)
    assert np.abs(np.asarray(printed) - wanted).max() > 1e-3


def cooperative_game(rng: np.random.Generator) -> tuple[dict[str, Matrix], Matrix]:
    """Derivatives of a Q in (x, u, v), and the minimising (u, v) for every x: `[k, K]` stacked."""
    n, m = 3, 2
    whole = positive(rng, n + 2 * m)
    parts = {"x": slice(0, n), "u": slice(n, n + m), "v": slice(n + m, n + 2 * m)}
    q = {a + b: whole[parts[a], parts[b]] for a in parts for b in parts}
    q |= {a: rng.normal(size=part.stop - part.start) for a, part in parts.items()}
    q_ww = whole[n:, n:]
    gradient = np.concatenate([q["u"], q["v"]])
    return q, -solve(q_ww, np.column_stack([gradient, whole[n:, :n]]))


def test_eq_21_22(rng: np.random.Generator) -> None:
    """`V_xx = Q_xx - Q_xu Q_uu^-1 Q_ux` (Eq. 6) of an outer product is smaller, not larger."""
    q_x, q_u, q_uu = rng.normal(size=3), 0.3 * rng.normal(size=2), positive(rng, 2)
    wanted = np.outer(q_x, q_x) - np.outer(q_x, q_u) @ solve(q_uu, np.outer(q_u, q_x))
    form = q_u @ solve(q_uu, q_u)
    z, printed = np.sqrt(1 - form) * q_x, np.sqrt(1 + form) * q_x
    check(np.outer(z, z), wanted, np.outer(printed, printed))


def test_eq_23(rng: np.random.Generator) -> None:
    """Two players in one stage: the quadratic form of both, including their cross terms."""
    q_x, q_w, q_ww = rng.normal(size=3), 0.3 * rng.normal(size=4), positive(rng, 4)
    wanted = np.outer(q_x, q_x) - np.outer(q_x, q_w) @ solve(q_ww, np.outer(q_w, q_x))
    apart = sum(q_w[s] @ solve(q_ww[s, s], q_w[s]) for s in (slice(2), slice(2, 4)))
    right = (1 - q_w @ solve(q_ww, q_w)) * np.outer(q_x, q_x)
    check(right, wanted, (1 - apart) * np.outer(q_x, q_x))


def test_eq_14_15(rng: np.random.Generator) -> None:
    """The first brace is the gradient of a player given the other one's step: `Q_u + Q_uv l`."""
    q, best = cooperative_game(rng)
    l_v = -solve(q["vv"], q["v"])
    schur = q["uu"] - q["uv"] @ solve(q["vv"], q["vu"])
    check(-solve(schur, q["u"] + q["uv"] @ l_v), best[:2, 0], -solve(schur, q["uu"].sum(1)))
    k_u = -solve(q["uu"], q["u"])
    schur = q["vv"] - q["vu"] @ solve(q["uu"], q["uv"])
    check(-solve(schur, q["v"] + q["vu"] @ k_u), best[2:, 0], -solve(schur, q["vv"].sum(1)))


def test_eq_18(rng: np.random.Generator) -> None:
    """The open gain of u in the joint factors (Eq. 52, 54); A_vv is transposed *and* inverted."""
    a, b = (positive(rng, 4) for _ in range(2))
    q_u, q_v, u, v = rng.normal(size=(2, 2)), rng.normal(size=(2, 2)), slice(2), slice(2, 4)
    big_a, big_b = inv(a), inv(b)
    wanted = -kron(big_a[u, u], big_b[u, u]) @ vec(q_u) - kron(big_a[u, v], big_b[u, v]) @ vec(q_v)
    a_t, b_t = (m[u, u] - m[u, v] @ solve(m[v, v], m[v, u]) for m in (a, b))

    def formula(a_vv: Matrix) -> Matrix:
        other = b[u, v] @ solve(b[v, v], q_v) @ a_vv @ a[u, v].T
        return -vec(solve(b_t, q_u + other) @ inv(a_t).T)

    check(formula(inv(a[v, v]).T), wanted, formula(a[v, v].T))


def test_eq_51(rng: np.random.Generator) -> None:
    """The inverse of a block matrix has the Schur complement of the other player."""
    a, u, v = positive(rng, 4), slice(2), slice(2, 4)
    right = a[v, v] - a[v, u] @ solve(a[u, u], a[u, v])
    check(inv(right), inv(a)[v, v], inv(a[v, v] - a[u, v] @ solve(a[v, v], a[v, u])))


def residual_stage(rng: np.random.Generator) -> tuple[Matrix, ...]:
    """`Q_u`, `Q_uu`, `f_u^T V_xx_r` of one stage beside a shortcut."""
    return rng.normal(size=2), positive(rng, 2), rng.normal(size=(2, 3))


def test_eq_28(rng: np.random.Generator) -> None:
    """With the printed brace the feedback would be `-G dx_r`, and G would have the other sign."""
    _, q_uu, cross = residual_stage(rng)
    dx = rng.normal(size=3)
    wanted = -solve(q_uu, cross @ dx)  # minimises 1/2 u Q_uu u + u f_u^T V_xx_r dx
    check(-solve(q_uu, cross) @ dx, wanted, solve(q_uu, cross) @ dx)


def test_eq_32(rng: np.random.Generator) -> None:
    """`V_x = Q_x - Q_xu Q_uu^-1 Q_u` where the shortcut starts: the term with k is added."""
    q_u, q_uu, cross = residual_stage(rng)
    q_x, v_r, q_ux = rng.normal(size=3), rng.normal(size=3), rng.normal(size=(2, 3))
    k = -solve(q_uu, q_u)
    wanted = (q_x + v_r) - (q_ux + cross).T @ solve(q_uu, q_u)
    check((q_x + q_ux.T @ k) + (v_r + cross.T @ k), wanted, (q_x + q_ux.T @ k) + v_r - cross.T @ k)


def test_table_1(rng: np.random.Generator) -> None:
    """RMSprop divides by the root of the mean square."""
    q = rng.normal(size=4)
    tx = optax.rmsprop(0.1, decay=0.9, eps=1e-3)
    wanted = np.asarray(tx.update(q, tx.init(q))[0])
    nu = 0.1 * q**2
    np.testing.assert_allclose(-0.1 / np.sqrt(nu + 1e-3) * q, wanted, rtol=1e-5)
    assert np.abs(-0.1 / (nu + 1e-3) * q - wanted).max() > 1e-3
