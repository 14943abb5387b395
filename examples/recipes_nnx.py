"""The implicit game with an `nnx.Optimizer`, including batch statistics and dropout keys."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import gtddp_jax as gt

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


class Net(nnx.Module):
    """A network with both kinds of state besides parameters: statistics and random streams."""

    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(4, 32, rngs=rngs), nnx.Linear(32, 3, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(32, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        """Map [B, 4] to class scores [B, 3]."""
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def losses(model, x, y):
    """The loss of each sample as a function of the scores, which are returned as well."""
    logits = model(x)
    return gt.Losses(logits, lambda logits: cross_entropy(logits, y), aux=logits)


@nnx.jit
def train_step(model, optimizer, x, y):
    """Make a step and return the mean loss and the accuracy before it."""
    loss, logits, _ = gt.nnx.update(model, optimizer, losses, x, y)
    return loss, jnp.mean(logits.argmax(-1) == y)


def main():
    """Learn in which third of an interval the first coordinate lies."""
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, gt.implicit(optax.adam(1e-2)), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    for step in range(201):
        x = rng.uniform(-1, 1, size=(32, 4)).astype("float32")
        loss, accuracy = train_step(model, optimizer, x, np.digitize(x[:, 0], [-1 / 3, 1 / 3]))
        if step % 50 == 0:
            print(f"step {step:3}  loss {loss:.3f}  accuracy {accuracy:.2f}")


if __name__ == "__main__":
    main()
