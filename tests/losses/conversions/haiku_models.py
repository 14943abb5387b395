"""The steps of Haiku's examples "mnist", "imagenet" and "transformer", with small models."""

from functools import partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt
from tests.losses.conversions.conversion import (
    Game,
    Steps,
    batches,
    images,
    to_float64,
    token_batch,
)

CLASSES = 3


class MeanState(NamedTuple):
    """Parameters, their average, and the optimizer's state."""

    params: Any
    avg_params: Any
    opt_state: Any


def net_fn(images: Any) -> Any:
    mlp = hk.Sequential([hk.Flatten(), hk.Linear(4), jax.nn.tanh, hk.Linear(CLASSES)])
    return mlp(images)


def original_mnist() -> Steps:
    network = hk.without_apply_rng(hk.transform(net_fn))
    optimiser = optax.adam(0.1)

    def loss(params: Any, batch: Any) -> Any:
        batch_size = len(batch["image"])
        logits = network.apply(params, batch["image"])
        labels = jax.nn.one_hot(batch["label"], CLASSES)
        l2_regulariser = 0.5 * sum(jnp.sum(jnp.square(p)) for p in jax.tree.leaves(params))
        log_likelihood = jnp.sum(labels * jax.nn.log_softmax(logits))
        return -log_likelihood / batch_size + 1e-4 * l2_regulariser

    @jax.jit
    def update(state: Any, batch: Any) -> Any:
        grads = jax.grad(loss)(state.params, batch)
        updates, opt_state = optimiser.update(grads, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        avg_params = optax.incremental_update(params, state.avg_params, step_size=0.001)
        return MeanState(params, avg_params, opt_state)

    params = to_float64(jax.jit(network.init)(jax.random.key(0), jnp.ones((1, 4, 4, 1))))
    state = MeanState(params, params, optimiser.init(params))
    for batch in batches(images):
        state = update(state, batch)
        yield state.params, state.opt_state, state.avg_params


def converted_mnist(game: Game) -> Steps:
    network = hk.without_apply_rng(hk.transform(net_fn))
    optimiser = game(optax.adam(0.1))

    def loss(params: Any, batch: Any) -> Any:
        logits = network.apply(params, batch["image"])
        labels = jax.nn.one_hot(batch["label"], CLASSES)
        l2_regulariser = 0.5 * sum(jnp.sum(jnp.square(p)) for p in jax.tree.leaves(params))
        loss = partial(optax.softmax_cross_entropy, labels=labels)
        return gt.Losses(logits, loss, regularizer=1e-4 * l2_regulariser)

    @jax.jit
    def update(state: Any, batch: Any) -> Any:
        compute = gt.value_and_update(optimiser, loss)
        _, updates, opt_state = compute(state.params, state.opt_state, batch)
        params = optax.apply_updates(state.params, updates)
        avg_params = optax.incremental_update(params, state.avg_params, step_size=0.001)
        return MeanState(params, avg_params, opt_state)

    params = to_float64(jax.jit(network.init)(jax.random.key(0), jnp.ones((1, 4, 4, 1))))
    state = MeanState(params, params, optimiser.init(params))
    for batch in batches(images):
        state = update(state, batch)
        yield state.params, state.opt_state, state.avg_params


class StatefulState(NamedTuple):
    """Parameters, running statistics, and the optimizer's state."""

    params: Any
    state: Any
    opt_state: Any


@hk.transform_with_state
def forward(batch: Any, is_training: bool) -> Any:
    x = hk.Conv2D(2, 3, stride=2)(batch["image"])
    x = jax.nn.relu(hk.BatchNorm(True, True, 0.9, name="batchnorm")(x, is_training))
    return hk.Linear(CLASSES)(x.mean((1, 2)))


def l2_loss(params: Any) -> Any:
    return 0.5 * sum(jnp.sum(jnp.square(p)) for p in params)


def l2_params(params: Any) -> list[Any]:
    return [p for name, _, p in hk.data_structures.traverse(params) if "batchnorm" not in name]


def make_optimizer() -> Any:
    rate = optax.cosine_decay_schedule(0.3, 10)
    return optax.chain(
        optax.trace(decay=0.9, nesterov=True), optax.scale_by_schedule(rate), optax.scale(-1)
    )


def original_imagenet() -> Steps:
    def loss_fn(params: Any, state: Any, batch: Any) -> Any:
        logits, state = forward.apply(params, state, None, batch, is_training=True)
        labels = jax.nn.one_hot(batch["label"], CLASSES)
        labels = optax.smooth_labels(labels, 0.1)
        loss = optax.softmax_cross_entropy(logits=logits, labels=labels).mean()
        loss = loss + 1e-4 * l2_loss(l2_params(params))
        return loss, (loss, state)

    @jax.jit
    def train_step(train_state: Any, batch: Any) -> Any:
        params, state, opt_state = train_state
        grads, (loss, new_state) = jax.grad(loss_fn, has_aux=True)(params, state, batch)
        updates, new_opt_state = optimizer.update(grads, opt_state)
        new_params = optax.apply_updates(params, updates)
        scalars = {"train_loss": loss}
        train_state = StatefulState(new_params, new_state, new_opt_state)
        return train_state, scalars

    optimizer = make_optimizer()
    variables = jax.jit(partial(forward.init, is_training=True))(
        jax.random.key(0), next(batches(images))
    )
    params, state = to_float64(variables)
    train_state = StatefulState(params, state, optimizer.init(params))
    for batch in batches(images):
        train_state, scalars = train_step(train_state, batch)
        yield train_state[:2], train_state.opt_state, scalars


def converted_imagenet(game: Game) -> Steps:
    def loss_fn(params: Any, state: Any, batch: Any) -> Any:
        logits, state = forward.apply(params, state, None, batch, is_training=True)
        labels = jax.nn.one_hot(batch["label"], CLASSES)
        labels = optax.smooth_labels(labels, 0.1)
        loss = partial(optax.softmax_cross_entropy, labels=labels)
        return gt.Losses(logits, loss, None, 1e-4 * l2_loss(l2_params(params)), aux=state)

    @jax.jit
    def train_step(train_state: Any, batch: Any) -> Any:
        params, state, opt_state = train_state
        update = gt.value_and_update(optimizer, loss_fn)
        (loss, new_state, _), updates, new_opt_state = update(params, opt_state, state, batch)
        new_params = optax.apply_updates(params, updates)
        scalars = {"train_loss": loss}
        train_state = StatefulState(new_params, new_state, new_opt_state)
        return train_state, scalars

    optimizer = game(make_optimizer())
    variables = jax.jit(partial(forward.init, is_training=True))(
        jax.random.key(0), next(batches(images))
    )
    params, state = to_float64(variables)
    train_state = StatefulState(params, state, optimizer.init(params))
    for batch in batches(images):
        train_state, scalars = train_step(train_state, batch)
        yield train_state[:2], train_state.opt_state, scalars


class KeyState(NamedTuple):
    """Parameters, the optimizer's state, the key of the next step and their number."""

    params: Any
    opt_state: Any
    rng_key: Any
    step: Any


def forward_pass(tokens: Any) -> Any:
    x = hk.Embed(5, 4)(tokens)
    scores = jnp.where(jnp.tril(jnp.ones((4, 4), bool))[None], x @ x.swapaxes(1, 2), -1e9)
    x = x + jnp.tanh(hk.Linear(4)(jax.nn.softmax(scores) @ x))
    return hk.Linear(5)(hk.dropout(hk.next_rng_key(), 0.1, x))


def original_transformer() -> Steps:
    def optimiser() -> Any:
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1, b1=0.9, b2=0.99))

    @hk.transform
    def loss_fn(data: Any) -> Any:
        logits = forward_pass(data["inputs"])
        log_probs = jax.nn.log_softmax(logits)
        onehot_targets = jax.nn.one_hot(data["targets"], 5)
        log_likelihood = jnp.sum(onehot_targets * log_probs, axis=-1)
        mask = jnp.not_equal(data["inputs"], 0)
        return -jnp.sum(log_likelihood * mask) / jnp.sum(mask)

    @jax.jit
    def update(state: Any, data: Any) -> Any:
        rng, net_rng = jax.random.split(state.rng_key)
        loss_and_grad_fn = jax.value_and_grad(loss_fn.apply)
        loss, gradients = loss_and_grad_fn(state.params, net_rng, data)
        updates, new_opt_state = optimiser().update(gradients, state.opt_state)
        new_params = optax.apply_updates(state.params, updates)
        new_state = KeyState(new_params, new_opt_state, rng, state.step + 1)
        return new_state, {"step": state.step, "loss": loss}

    params = to_float64(jax.jit(loss_fn.init)(jax.random.key(0), next(batches(token_batch))))
    state = KeyState(params, optimiser().init(params), jax.random.key(1), jnp.array(0))
    for data in batches(token_batch):
        state, metrics = update(state, data)
        yield state.params, state.opt_state, metrics


def converted_transformer(game: Game) -> Steps:
    def optimiser() -> Any:
        return game(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1, b1=0.9, b2=0.99)))

    @hk.transform
    def loss_fn(data: Any) -> Any:
        logits = forward_pass(data["inputs"])
        onehot_targets = jax.nn.one_hot(data["targets"], 5)
        loss = partial(optax.softmax_cross_entropy, labels=onehot_targets)
        mask = jnp.not_equal(data["inputs"], 0)
        return gt.Losses(logits, loss, mask)

    @jax.jit
    def update(state: Any, data: Any) -> Any:
        rng, net_rng = jax.random.split(state.rng_key)
        compute = gt.value_and_update(optimiser(), loss_fn.apply)
        (loss, _, _), updates, new_opt_state = compute(state.params, state.opt_state, net_rng, data)
        new_params = optax.apply_updates(state.params, updates)
        new_state = KeyState(new_params, new_opt_state, rng, state.step + 1)
        return new_state, {"step": state.step, "loss": loss}

    params = to_float64(jax.jit(loss_fn.init)(jax.random.key(0), next(batches(token_batch))))
    state = KeyState(params, optimiser().init(params), jax.random.key(1), jnp.array(0))
    for data in batches(token_batch):
        state, metrics = update(state, data)
        yield state.params, state.opt_state, metrics
