"""Burgers' equation with a shock, u_t + u u_x = (0.01 / pi) u_xx, by a physics-informed network.

Initial and boundary values hold by construction. Each step draws new points, half of them near the
shock at x = 0.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=150)
options = parser.parse_args()
jax.config.update("jax_enable_x64", True)
NU, POINTS = 0.01 / np.pi, 800


def solution(params, t, x):
    """Return u(t, x) with u(0, x) = -sin(pi x) and u(t, -1) = u(t, 1) = 0."""
    hidden = jnp.stack([t, x])
    for kernel, bias in params[:-1]:
        hidden = jnp.tanh(kernel @ hidden + bias)
    return -jnp.sin(jnp.pi * x) + t * (1 - x**2) * (params[-1][0] @ hidden + params[-1][1])[0]


def equation(params, point):
    """Return the residual of the equation at one point (t, x)."""
    t, x = point
    u, u_t = jax.jvp(lambda t: solution(params, t, x), (t,), (1.0,))
    slope = jax.grad(lambda x: solution(params, t, x))
    u_x, u_xx = jax.jvp(slope, (x,), (1.0,))
    return u_t + u * u_x - NU * u_xx


def exact(t, x):
    """Return the solution at arrays t and x, by the Cole-Hopf transformation."""
    nodes, weights = np.polynomial.hermite.hermgauss(160)
    y = x[:, None] - np.sqrt(4 * NU * t[:, None]) * nodes
    heat = weights * np.exp(-(np.cos(np.pi * y) + 1) / (2 * np.pi * NU))
    return -(heat * np.sin(np.pi * y)).sum(1) / heat.sum(1)


def draw_points(key):
    """Return uniform points (t, x), half of them moved near x = 0."""
    t_key, x_key, shock_key = jax.random.split(key, 3)
    x = jax.random.uniform(x_key, (POINTS,), float, -1, 1)
    near = 0.05 * jax.random.normal(shock_key, (POINTS // 2,))
    t = jax.random.uniform(t_key, (POINTS,))
    return jnp.stack([t, x.at[: POINTS // 2].set(jnp.clip(near, -1, 1))], axis=1)


sizes = [(20, 2), (20, 20), (20, 20), (20, 20), (1, 20)]
params = [
    (jax.random.normal(key, size) * size[1] ** -0.5, jnp.zeros(size[0]))
    for key, size in zip(jax.random.split(jax.random.key(0), len(sizes)), sizes, strict=True)
]
tx = gt.joint({"equation": equation}, damping=1e-6)
state = tx.init(params)


@jax.jit
def step(params, state, key):
    """Make a step on new points."""
    updates, state = tx.update(None, state, params, batch={"equation": draw_points(key)})
    return optax.apply_updates(params, updates), state


t, x = (a.ravel() for a in np.meshgrid(np.linspace(0, 1, 21), np.linspace(-1, 1, 201)))
truth = exact(t, x)
start = time.perf_counter()
for number in range(1, options.steps + 1):
    params, state = step(params, state, jax.random.key(number))
    if number % 25 == 0 or number == options.steps:
        found = jax.vmap(solution, (None, 0, 0))(params, jnp.asarray(t), jnp.asarray(x))
        error = np.linalg.norm(found - truth) / np.linalg.norm(truth)
        print(
            f"step {number:4}  {time.perf_counter() - start:5.1f} s  "
            f"loss {state.report.loss:.1e}  relative error {error:.1e}",
            flush=True,
        )
