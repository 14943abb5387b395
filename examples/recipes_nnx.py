"""The implicit game through `nnx.Optimizer`, including batch statistics and dropout keys."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import gtddp_jax as gt


def optimizer_for(model, base, loss, **options):
    """Wrap an optax optimizer in the game; `loss(outputs, targets)` is one number per sample."""
    graph, _, rest = nnx.split(model, nnx.Param, ...)

    def apply_fn(params, inputs):
        x, rest = inputs
        model = nnx.merge(graph, params, rest)
        return model(x), nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))

    tx = gt.implicit(base, apply_fn, loss, has_aux=True, aux=nnx.as_pure(rest), **options)
    return nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x, y):
    """Make a step and return the mean loss before it."""
    _, params, rest = nnx.split(model, nnx.Param, ...)
    no_running_cost = jax.tree.map(jnp.zeros_like, params)
    optimizer.update(model, no_running_cost, batch=((x, nnx.as_pure(rest)), y))
    nnx.update(model, nnx.as_pure(optimizer.opt_state.aux))
    return optimizer.opt_state.report.loss[...]


class Net(nnx.Module):
    """A network with both kinds of state besides parameters: statistics and random streams."""

    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(4, 32, rngs=rngs), nnx.Linear(32, 3, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(32, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        """Map [B, 4] to class scores [B, 3]."""
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def main():
    """Learn in which third of an interval the first coordinate lies."""
    model = Net(nnx.Rngs(0))
    loss = optax.softmax_cross_entropy_with_integer_labels
    optimizer = optimizer_for(model, optax.adam(1e-2), loss)
    rng = np.random.default_rng(0)
    for step in range(201):
        x = rng.uniform(-1, 1, size=(32, 4)).astype("float32")
        value = train_step(model, optimizer, x, np.digitize(x[:, 0], [-1 / 3, 1 / 3]))
        if step % 50 == 0:
            print(f"step {step:3}  loss {value:.3f}")


if __name__ == "__main__":
    main()
