"""A physics-informed network for -Laplace(u) = f in the unit square: the joint game beside Adam."""

import argparse
import time

import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=40, help="steps of the joint game")
options = parser.parse_args()
jax.config.update("jax_enable_x64", True)  # for errors below 1e-3


def network(params, x):
    """Return u at one point x [2]."""
    for kernel, bias in params[:-1]:
        x = jnp.tanh(kernel @ x + bias)
    return (params[-1][0] @ x + params[-1][1])[0]


def exact(x):
    """Return the solution at one point."""
    return jnp.prod(jnp.sin(jnp.pi * x))


def equation(params, x):
    """Return Laplace(u) + f at one point inside."""
    return jnp.trace(jax.hessian(network, argnums=1)(params, x)) + 2 * jnp.pi**2 * exact(x)


keys = jax.random.split(jax.random.key(0), 5)
sizes = [(32, 2), (32, 32), (1, 32)]
params = [
    (jax.random.normal(k, s) * s[1] ** -0.5, jnp.zeros(s[0]))
    for k, s in zip(keys, sizes, strict=False)
]
faces = jax.random.uniform(keys[3], (80, 2))
faces = faces.at[jnp.arange(80), jnp.arange(80) % 2].set((jnp.arange(80) // 2 % 2).astype(float))
points = {"equation": jax.random.uniform(keys[4], (400, 2)), "boundary": faces}
grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(0, 1, 50)] * 2), -1).reshape(-1, 2)
truth = jax.vmap(exact)(grid)

# u is zero on the boundary, so the network itself is the residual there.
tx = gt.joint({"equation": equation, "boundary": network}, damping=1e-8)
adam = optax.adam(1e-3)


def joint_step(params, state):
    """Make a step. The joint game computes its own derivatives."""
    updates, state = tx.update(None, state, params, batch=points)
    return optax.apply_updates(params, updates), state


def adam_step(params, state):
    """Make a step on the same objective."""

    def loss(params):
        inside = jax.vmap(equation, (None, 0))(params, points["equation"])
        boundary = jax.vmap(network, (None, 0))(params, points["boundary"])
        return 0.5 * jnp.mean(inside**2) + 0.5 * jnp.mean(boundary**2)

    updates, state = adam.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state


def train(name, optimizer, step, finished):
    """Train until `finished(steps, seconds)`, and print the relative L2 error."""
    trained, state = params, optimizer.init(params)
    step = jax.jit(step).lower(trained, state).compile()
    start, steps = time.perf_counter(), 0
    while not finished(steps, time.perf_counter() - start):
        trained, state = jax.block_until_ready(step(trained, state))
        steps += 1
    seconds = time.perf_counter() - start
    error = jnp.linalg.norm(jax.vmap(network, (None, 0))(trained, grid) - truth)
    error = error / jnp.linalg.norm(truth)
    print(f"{name:10}  {steps:5} steps  {seconds:4.1f} s  relative error {error:.1e}", flush=True)
    return seconds


seconds = train("joint game", tx, joint_step, lambda steps, _: steps == options.steps)
train("Adam", adam, adam_step, lambda _, spent: spent >= seconds)
