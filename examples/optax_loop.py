"""GT-DDP-Adam in an ordinary optax training loop, on scikit-learn's 8x8 handwritten digits."""

import flax.linen as nn
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import gtddp_jax as gt

images, labels = map(np.asarray, load_digits(return_X_y=True))
train_x, test_x, train_y, test_y = map(
    np.asarray, train_test_split((images / 16).astype("float32"), labels, random_state=0)
)

body = [nn.Dense(64), nn.relu, nn.Dense(64)]
net = gt.Network([nn.Dense(64), nn.relu, gt.Residual(body), nn.relu, nn.Dense(10)])
tx = gt.adam(net, optax.softmax_cross_entropy_with_integer_labels, learning_rate=1e-3)
params = net.init(jax.random.key(0), train_x[:1])
state = tx.init(params)


@jax.jit
def step(params, state, batch):
    """Make a step. The game computes the gradient itself; None: there is no running cost."""
    updates, state = tx.update(None, state, params, batch=batch)
    return optax.apply_updates(params, updates), state


rng = np.random.default_rng(0)
for epoch in range(1, 11):
    for batch in rng.permutation(len(train_x))[:1344].reshape(-1, 32):
        params, state = step(params, state, (train_x[batch], train_y[batch]))
    accuracy = np.mean(np.argmax(net.apply(params, test_x), -1) == test_y)
    report = state.report
    print(
        f"epoch {epoch:2}  last batch: loss {report.loss:.4f}, sample weights "
        f"{report.sample_weight_min:.2f} to {report.sample_weight_max:.2f}  "
        f"test accuracy {accuracy:.1%}"
    )
