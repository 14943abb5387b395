"""Feedback off is plain KFAC or EKFAC, and the paper's baseline in its own arithmetic."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from tests.curvature.kronecker import formulas
from tests.curvature.kronecker.formulas import Formula
from tests.sequential import oracle, zoo

Tree = Any
LOSS = zoo.LOSSES["squared"]
FORMULAS = {
    "kfac, momentum": Formula("exact", momentum=0.9, weight_decay=0.1, factor_decay=0.5),
    "kfac, nesterov": Formula("factored", momentum=0.9, nesterov=True),
    "ekfac, constraint": Formula("running", norm_constraint=1e-3),
    "ekfac, schedules": Formula(
        "per_example", rate=lambda n: 0.2 / (1 + n), gamma=lambda n: 0.3 / (1 + n)
    ),
}


def plain_gradients(p: zoo.Problem, params: Tree) -> tuple[Tree, list[jax.Array]]:
    """The gradient of the mean loss, and V_x of every stage's next states, [B, N']."""
    states: list[tuple[jax.Array, ...]] = [(p.x,)]
    for stage in p.net.stages:
        states.append(stage(params, states[-1]))

    def rest(t: int, now: tuple[jax.Array, ...]) -> jax.Array:
        for stage in p.net.stages[t:]:
            now = stage(params, now)
        return LOSS(now[0], p.y).mean()

    values = []
    for t in range(len(p.net.stages)):
        g = jax.grad(lambda now, t=t: rest(t + 1, now))(states[t + 1])
        values.append(jnp.concatenate([v.reshape(len(p.x), -1) for v in g], axis=1))
    gradient = jax.grad(lambda u: LOSS(p.net.apply(u, p.x), p.y).mean())(params)
    return gradient, values


@pytest.mark.slow
def test_feedback_off_is_the_plain_method() -> None:
    p = zoo.problem("conv_small", batch=7)
    tables: dict[str, Any] = {
        label: gt.gtddp(p.net, LOSS, formulas.curvature(f), equilibrium="open_loop")
        for label, f in FORMULAS.items()
    }

    @jax.jit
    def library(now: Any) -> Any:
        return {
            label: tables[label].update(None, state, params, batch=(p.x, p.y))
            for label, (params, state) in now.items()
        }

    now = {label: (p.params, tx.init(p.params)) for label, tx in tables.items()}
    memories = {label: [formulas.start(s, p.params) for s in p.net.stages] for label in tables}
    for _ in range(3):
        for label, (got, state) in library(now).items():
            params = now[label][0]
            gradient, values = jax.jit(functools.partial(plain_gradients, p))(params)
            states: tuple[jax.Array, ...] = (p.x,)
            want: dict[str, Any] = {}
            for t, stage in enumerate(p.net.stages):
                own, unravel = ravel_pytree({name: params[name] for name in stage.players})
                q, _ = ravel_pytree({name: gradient[name] for name in stage.players})
                found = formulas.blocks(stage, params, states, values[t])
                memory = memories[label][t]
                k, _, memories[label][t] = formulas.policy(FORMULAS[label], memory, found, q, own)
                want |= unravel(k)
                states = stage(params, states)
            assert oracle.relative_error(got, want) < 1e-10, label
            now[label] = (jax.tree.map(jnp.add, params, got), state)


def unfold(x: np.ndarray, size: int) -> np.ndarray:
    """3x3 patches with zero padding: [B, positions, size * size * channels]."""
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    h, w = x.shape[1] - 2 * pad, x.shape[2] - 2 * pad
    seen = [x[:, i : i + h, j : j + w] for i in range(size) for j in range(size)]
    return np.concatenate(seen, axis=-1).reshape(len(x), h * w, -1)


class Baseline:
    """EKFAC-pytorch for one layer, as published: factors of the last refresh's batch alone.

    `x`: patches with an appended 1, [B, T, p]; `g`: gradients of the mean loss times B, [B, T, q].
    """

    def __init__(self, eps: float, every: int, *, running: bool) -> None:
        self.eps, self.every, self.running, self.count = eps, every, running, 0

    def step(self, x: np.ndarray, g: np.ndarray) -> np.ndarray:
        """The preconditioned gradient [p, q]."""
        batch, positions = x.shape[:2]
        if self.count % self.every == 0:
            a, b = (v.reshape(-1, v.shape[-1]) for v in (x, g))
            value_a, self.u_a = np.linalg.eigh(a.T @ a / len(a))
            value_b, self.u_b = np.linalg.eigh(b.T @ b / len(b))
            self.s = positions * np.outer(value_a, value_b)
        self.count += 1
        gradient = np.einsum("btp,btq->pq", x, g) / batch
        rotated = self.u_a.T @ gradient @ self.u_b
        if self.running:
            self.s = 0.75 * self.s + 0.25 * batch * rotated**2
        else:
            each = np.einsum("btp,pi,btq,qj->bij", x, self.u_a, g, self.u_b)
            self.s = (each**2).mean(0)
        return self.u_a @ (rotated / (self.s + self.eps)) @ self.u_b.T


def check_baseline(net: gt.Network, shape: tuple[int, ...], size: int) -> None:
    """The first layer of a network with the loss read off its outputs, against `Baseline`."""
    rng, eps, rate = np.random.default_rng(0), 1e-2, 0.1
    kinds: dict[str, dict[str, Any]] = {
        "ra": {"mode": "running", "factors_every": 2, "refresh_every": 2},
        "batch": {"mode": "per_example", "scale_decay": 0, "factors_every": 1, "refresh_every": 1},
    }
    for label, options in kinds.items():
        published = Baseline(eps, options["refresh_every"], running=label == "ra")
        once = {"equilibrium": "open_loop", "factor_decay": 0.0, "stagger": False}
        tx: Any = gt.ekfac(net, LOSS, rate, damping=eps, **once, **options)
        x = jnp.asarray(rng.normal(size=(16, *shape)))
        params: Any = zoo.cast(net.init(jax.random.key(0), x[:1]), jnp.float64)
        state = tx.init(params)
        update = jax.jit(
            lambda state, params, x, y, tx=tx: tx.update(None, state, params, batch=(x, y))
        )
        for _ in range(3):
            x = jnp.asarray(rng.normal(size=(16, *shape)))
            outputs = net.apply(params, x)
            y = jnp.asarray(rng.normal(size=outputs.shape))
            updates, state = update(state, params, x, y)
            patches = unfold(np.asarray(x), size) if size else np.asarray(x)[:, None]
            patches = np.concatenate([patches, np.ones((*patches.shape[:2], 1))], axis=-1)
            g = np.asarray(outputs - y).reshape(16, patches.shape[1], -1)
            want = -rate * published.step(patches, g)
            (layer,) = updates.values()
            got = np.concatenate([layer["kernel"].reshape(-1, g.shape[-1]), layer["bias"][None]])
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9, err_msg=label)
            params = optax.apply_updates(params, updates)


def test_dense_layer_by_the_baselines_arithmetic() -> None:
    check_baseline(gt.Network([nn.Dense(3)]), (4,), 0)


@pytest.mark.slow
def test_convolution_by_the_baselines_arithmetic() -> None:
    check_baseline(gt.Network([nn.Conv(2, (3, 3))]), (4, 3, 2), 3)
