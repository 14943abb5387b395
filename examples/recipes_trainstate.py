"""The implicit game in `flax.training.train_state.TrainState`.

`state.apply_gradients` cannot pass the batch, so the step calls `tx.update` itself.
"""

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.training.train_state import TrainState

import gtddp_jax as gt


def state_for(module, params, base, loss, **options):
    """Make a `TrainState` with the game around an optax optimizer; `loss` is per sample."""

    def apply_fn(params, x):
        return module.apply({"params": params}, x)

    tx = gt.implicit(base, apply_fn, loss, **options)
    return TrainState.create(apply_fn=apply_fn, params=params, tx=tx)


@jax.jit
def train_step(state, x, y):
    """Return the state after a step; `state.opt_state.report` describes the step."""
    updates, opt_state = state.tx.update(None, state.opt_state, state.params, batch=(x, y))
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state)


def main():
    """Learn in which third of an interval the first coordinate lies."""
    module = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(3)])
    params = module.init(jax.random.key(0), np.zeros((1, 4), "float32"))["params"]
    loss = optax.softmax_cross_entropy_with_integer_labels
    state = state_for(module, params, optax.adam(1e-2), loss)
    rng = np.random.default_rng(0)
    for step in range(201):
        x = rng.uniform(-1, 1, size=(32, 4)).astype("float32")
        state = train_step(state, x, np.digitize(x[:, 0], [-1 / 3, 1 / 3]))
        if step % 50 == 0:
            print(f"step {step:3}  loss {state.opt_state.report.loss:.3f}")


if __name__ == "__main__":
    main()
