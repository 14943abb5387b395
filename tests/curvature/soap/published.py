"""SOAP as its authors published it, one array of parameters at a time.

A transcription of the optimizer that accompanies Vyas et al. 2024 (https://arxiv.org/abs/2409.11321)
for arrays, with the names of that code: `GG` are the Gram matrices, `Q` their bases; the mean
`exp_avg` is kept in the bases and moves with them. Nothing of `gtddp_jax` is used.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

State = dict[str, Any]


class Options(NamedTuple):
    """The arguments, with the published defaults."""

    lr: Any = 3e-3
    betas: tuple[float, float] = (0.95, 0.95)
    shampoo_beta: float = -1
    eps: float = 1e-8
    weight_decay: float = 0.01
    precondition_frequency: int = 10
    max_precond_dim: int = 10000


def start(p: jax.Array, options: Options) -> State:
    """`init_preconditioner`; `step` is a Python number, -1 before the first call."""
    if p.ndim == 1:
        grams = [None]
    else:
        grams = [jnp.zeros((n, n)) if n <= options.max_precond_dim else None for n in p.shape]
    zeros = jnp.zeros(p.shape)
    return {"step": -1, "exp_avg": zeros, "exp_avg_sq": zeros, "GG": grams, "Q": None}


def project(grad: jax.Array, bases: list[Any]) -> jax.Array:
    """Each axis in turn goes to the end, in the coordinates of its basis."""
    for mat in bases:
        grad = jnp.moveaxis(grad, 0, -1) if mat is None else jnp.tensordot(grad, mat, ([0], [0]))
    return grad


def project_back(grad: jax.Array, bases: list[Any]) -> jax.Array:
    """The inverse of `project`."""
    for mat in bases:
        grad = jnp.moveaxis(grad, 0, -1) if mat is None else jnp.tensordot(grad, mat, ([0], [1]))
    return grad


def get_orthogonal_matrix(mats: list[Any]) -> list[Any]:
    """Eigenvectors, in descending order of their eigenvalues."""
    final = []
    for m in mats:
        if m is None:
            final.append(None)
            continue
        _, q = jnp.linalg.eigh(m + 1e-30 * jnp.eye(len(m)))
        final.append(jnp.flip(q, [1]))
    return final


def get_orthogonal_matrix_qr(state: State) -> tuple[list[Any], jax.Array]:
    """One round of power iteration followed by QR; `exp_avg_sq` is reordered."""
    exp_avg_sq, final = state["exp_avg_sq"], []
    for ind, (m, o) in enumerate(zip(state["GG"], state["Q"], strict=True)):
        if m is None:
            final.append(None)
            continue
        est_eig = jnp.diag(o.T @ m @ o)
        sort_idx = jnp.argsort(est_eig, descending=True)
        exp_avg_sq = jnp.take(exp_avg_sq, sort_idx, ind)
        final.append(jnp.linalg.qr(m @ o[:, sort_idx])[0])
    return final, exp_avg_sq


def update_preconditioner(grad: jax.Array, state: State, options: Options) -> State:
    """`GG` takes in the gradient; new bases if they are due."""
    state = dict(state)
    if state["Q"] is not None:
        state["exp_avg"] = project_back(state["exp_avg"], state["Q"])
    beta = options.shampoo_beta if options.shampoo_beta >= 0 else options.betas[1]
    grams = []
    for idx, old in enumerate(state["GG"]):
        others = [*range(idx), *range(idx + 1, grad.ndim)]
        new = None if old is None else jnp.tensordot(grad, grad, (others, others))
        grams.append(None if old is None or new is None else beta * old + (1 - beta) * new)
    state["GG"] = grams
    if state["Q"] is None:
        state["Q"] = get_orthogonal_matrix(grams)
    if state["step"] > 0 and state["step"] % options.precondition_frequency == 0:
        state["Q"], state["exp_avg_sq"] = get_orthogonal_matrix_qr(state)
    if state["step"] > 0:
        state["exp_avg"] = project(state["exp_avg"], state["Q"])
    return state


class Step(NamedTuple):
    """What a call does.

    Attributes:
        update: the change of the array.
        preconditioner: P as a matrix on the raveled array, the learning rate included.
        state: the next state.
    """

    update: jax.Array
    preconditioner: jax.Array
    state: State


def step(p: jax.Array, grad: jax.Array, state: State, options: Options) -> Step:
    """One call of the optimizer."""
    state = {**state, "step": state["step"] + 1}
    if state["Q"] is None:
        # The first step is skipped.
        nothing = jnp.zeros((p.size, p.size))
        return Step(jnp.zeros(p.shape), nothing, update_preconditioner(grad, state, options))
    beta1, beta2 = options.betas
    rate: Any = options.lr
    lr: Any = rate(state["step"]) if callable(rate) else rate
    grad_projected = project(grad, state["Q"])
    state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * grad_projected
    state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * jnp.square(grad_projected)
    denom = jnp.sqrt(state["exp_avg_sq"]) + options.eps
    bias_correction1 = 1.0 - beta1 ** state["step"]
    bias_correction2 = 1.0 - beta2 ** state["step"]
    step_size = lr * bias_correction2**0.5 / bias_correction1
    new = p - step_size * project_back(state["exp_avg"] / denom, state["Q"])
    new = new - lr * options.weight_decay * new

    basis = jnp.eye(1)
    for n, mat in zip(p.shape, state["Q"], strict=True):
        basis = jnp.kron(basis, jnp.eye(n) if mat is None else mat)
    # What the gradient itself contributes to the step, but for the momentum.
    diagonal = (1 - lr * options.weight_decay) * lr * bias_correction2**0.5 / denom
    preconditioner = (basis * diagonal.ravel()[None]) @ basis.T
    return Step(new - p, preconditioner, update_preconditioner(grad, state, options))
