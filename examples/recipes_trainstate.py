"""The implicit game in `flax.training.train_state.TrainState`.

`gt.linen.apply_losses` stands where `value_and_grad` and `state.apply_gradients` stood.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

import gtddp_jax as gt

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


@jax.jit
def train_step(state, x, y):
    """Return the state after a step, and the mean loss and the accuracy before it."""

    def losses(params):
        logits = state.apply_fn({"params": params}, x)
        return gt.Losses(logits, lambda logits: cross_entropy(logits, y), aux=logits)

    state, (loss, logits, _) = gt.linen.apply_losses(state, losses)
    return state, loss, jnp.mean(logits.argmax(-1) == y)


def main():
    """Learn in which third of an interval the first coordinate lies."""
    module = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(3)])
    params = module.init(jax.random.key(0), np.zeros((1, 4), "float32"))["params"]
    tx = gt.implicit(optax.adam(1e-2))
    state = TrainState.create(apply_fn=module.apply, params=params, tx=tx)
    rng = np.random.default_rng(0)
    for step in range(201):
        x = rng.uniform(-1, 1, size=(32, 4)).astype("float32")
        state, loss, accuracy = train_step(state, x, np.digitize(x[:, 0], [-1 / 3, 1 / 3]))
        if step % 50 == 0:
            print(f"step {step:3}  loss {loss:.3f}  accuracy {accuracy:.2f}")


if __name__ == "__main__":
    main()
