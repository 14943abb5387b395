"""The ground state of an anharmonic oscillator, H = -1/2 d2/dx2 + x^2 / 2 + x^4.

The local energy of the exact wave function is the same everywhere. So the energy is a parameter,
and the residual is what the local energy differs from it. This is the variance minimization of
quantum Monte Carlo, with points on a grid. The energy is known: 0.80377065123.
"""

import argparse

import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=40)
options = parser.parse_args()
jax.config.update("jax_enable_x64", True)
KNOWN_ENERGY = 0.80377065123


def log_wave_function(params, x):
    """Return log psi at one point: an even network and the behaviour far away."""
    far = -jnp.sqrt(2.0) / 3 * (1 + x**2) ** 1.5
    return far + params["out"] @ jnp.tanh(params["in"] * x**2 + params["bias"])


def local_energy(params, x):
    """Return (H psi) / psi at one point."""
    slope = jax.grad(log_wave_function, argnums=1)
    first, second = jax.jvp(lambda x: slope(params, x), (x,), (1.0,))
    return -0.5 * (second + first**2) + x**2 / 2 + x**4


def residual(params, x):
    """Return what the local energy differs from the energy."""
    return local_energy(params, x) - params["energy"]


keys = jax.random.split(jax.random.key(0), 3)
params = {
    name: jax.random.normal(key, (24,))
    for name, key in zip(("in", "bias", "out"), keys, strict=True)
}
params["energy"] = jnp.array(1.0)
points = jnp.linspace(0.0, 3.0, 200)
tx = gt.joint({"local energy": residual}, damping=gt.damping.RelativeDamping(1e-12))
state = tx.init(params)


@jax.jit
def step(params, state):
    """Make a step."""
    updates, state = tx.update(None, state, params, batch={"local energy": points})
    return optax.apply_updates(params, updates), state


for number in range(1, options.steps + 1):
    params, state = step(params, state)
    if number % 10 == 0 or number == options.steps:
        energy = float(params["energy"])
        print(
            f"step {number:3}  energy {energy:.9f}  error {abs(energy - KNOWN_ENERGY):.1e}  "
            f"spread of the local energy {jnp.sqrt(2 * state.report.loss):.1e}"
        )
