"""The steps of Equinox's examples "mnist", "bert" and "stateful", with small models."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from tests.losses.conversions.conversion import (
    SAMPLES,
    Game,
    Steps,
    batches,
    images,
    to_float64,
    token_batch,
)


class CNN(eqx.Module):
    """A list of layers, of which some are functions; the result is log probabilities.

    The example's loss is linear in them, so that no game would have an effect. They are their own
    log-softmax, hence the one in the conversion's loss.
    """

    layers: list[Any]

    def __init__(self, key: Any) -> None:
        keys = jax.random.split(key, 2)
        self.layers = [
            eqx.nn.Conv2d(1, 2, kernel_size=3, key=keys[0]),
            eqx.nn.MaxPool2d(kernel_size=2),
            jax.nn.tanh,
            jnp.ravel,
            eqx.nn.Linear(2, 3, key=keys[1]),
            jax.nn.log_softmax,
        ]

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


def image_batch(rng: np.random.Generator) -> tuple[Any, Any]:
    batch = images(rng)
    return batch["image"].swapaxes(1, 3), batch["label"]


def to_float64_model(model: Any) -> Any:
    arrays, rest = eqx.partition(model, eqx.is_array)
    return eqx.combine(to_float64(arrays), rest)


@eqx.filter_jit
def compute_accuracy(model: Any, x: Any, y: Any) -> Any:
    pred_y = jnp.argmax(jax.vmap(model)(x), axis=1)
    return jnp.mean(y == pred_y)


def original_mnist() -> Steps:
    def loss(model: Any, x: Any, y: Any) -> Any:
        pred_y = jax.vmap(model)(x)
        return cross_entropy(y, pred_y)

    def cross_entropy(y: Any, pred_y: Any) -> Any:
        pred_y = jnp.take_along_axis(pred_y, jnp.expand_dims(y, 1), axis=1)
        return -jnp.mean(pred_y)

    @eqx.filter_jit
    def make_step(model: Any, opt_state: Any, x: Any, y: Any) -> Any:
        value, grads = eqx.filter_value_and_grad(loss)(model, x, y)
        updates, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        model = eqx.apply_updates(model, updates)
        return model, opt_state, value

    model = to_float64_model(CNN(jax.random.key(0)))
    optim = optax.adamw(0.1)
    evaluate = eqx.filter_jit(loss)
    opt_state = optim.init(eqx.filter(model, eqx.is_array))
    for x, y in batches(image_batch):
        model, opt_state, train_loss = make_step(model, opt_state, x, y)
        test_loss = evaluate(model, x, y)
        metrics = train_loss, test_loss, compute_accuracy(model, x, y)
        yield eqx.filter(model, eqx.is_array), opt_state, metrics


def converted_mnist(game: Game) -> Steps:
    def loss(model: Any, x: Any, y: Any) -> Any:
        pred_y = jax.vmap(model)(x)
        return gt.Losses(pred_y, lambda pred_y: cross_entropy(y, jax.nn.log_softmax(pred_y)))

    def cross_entropy(y: Any, pred_y: Any) -> Any:
        pred_y = jnp.take_along_axis(pred_y, jnp.expand_dims(y, 1), axis=1)
        return -jnp.mean(pred_y, axis=1)

    @eqx.filter_jit
    def make_step(model: Any, opt_state: Any, x: Any, y: Any) -> Any:
        (value, _, _), updates, opt_state = gt.value_and_update(optim, loss)(model, opt_state, x, y)
        model = eqx.apply_updates(model, updates)
        return model, opt_state, value

    model = to_float64_model(CNN(jax.random.key(0)))
    optim = game(optax.adamw(0.1))
    evaluate = eqx.filter_jit(lambda *args: gt.mean_loss(loss)(*args)[0])
    opt_state = optim.init(eqx.filter(model, eqx.is_array))
    for x, y in batches(image_batch):
        model, opt_state, train_loss = make_step(model, opt_state, x, y)
        test_loss = evaluate(model, x, y)
        metrics = train_loss, test_loss, compute_accuracy(model, x, y)
        yield eqx.filter(model, eqx.is_array), opt_state, metrics


class Classifier(eqx.Module):
    """The mean of embeddings, a layer, dropout and logits."""

    embed: eqx.nn.Embedding
    hidden: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key: Any) -> None:
        keys = jax.random.split(key, 3)
        self.embed = eqx.nn.Embedding(5, 4, key=keys[0])
        self.hidden = eqx.nn.Linear(4, 4, key=keys[1])
        self.dropout = eqx.nn.Dropout(0.1)
        self.head = eqx.nn.Linear(4, 2, key=keys[2])

    def __call__(self, inputs: Any, enable_dropout: bool, key: Any) -> Any:
        x = jnp.tanh(self.hidden(jax.vmap(self.embed)(inputs["token_ids"]).mean(0)))
        return self.head(self.dropout(x, inference=not enable_dropout, key=key))


def sentence_batch(rng: np.random.Generator) -> dict[str, Any]:
    return {"token_ids": token_batch(rng)["inputs"], "label": rng.integers(0, 2, SAMPLES)}


def original_bert() -> Steps:
    @eqx.filter_value_and_grad
    def compute_loss(classifier: Any, inputs: Any, key: Any) -> Any:
        batched_keys = jax.random.split(key, num=inputs["token_ids"].shape[0])
        logits = jax.vmap(classifier, in_axes=(0, None, 0))(inputs, True, batched_keys)
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(logits=logits, labels=inputs["label"])
        )

    @eqx.filter_jit
    def make_step(model: Any, inputs: Any, opt_state: Any, key: Any) -> Any:
        key, new_key = jax.random.split(key)
        loss, grads = compute_loss(model, inputs, key)
        updates, opt_state = tx.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        model = eqx.apply_updates(model, updates)
        return loss, model, opt_state, new_key

    model, key = to_float64_model(Classifier(jax.random.key(0))), jax.random.key(1)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    opt_state = tx.init(eqx.filter(model, eqx.is_array))
    for inputs in batches(sentence_batch):
        loss, model, opt_state, key = make_step(model, inputs, opt_state, key)
        yield eqx.filter(model, eqx.is_array), opt_state, loss


def converted_bert(game: Game) -> Steps:
    def compute_loss(classifier: Any, inputs: Any, key: Any) -> Any:
        batched_keys = jax.random.split(key, num=inputs["token_ids"].shape[0])
        logits = jax.vmap(classifier, in_axes=(0, None, 0))(inputs, True, batched_keys)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return gt.Losses(logits, partial(cross_entropy, labels=inputs["label"]))

    @eqx.filter_jit
    def make_step(model: Any, inputs: Any, opt_state: Any, key: Any) -> Any:
        key, new_key = jax.random.split(key)
        update = gt.value_and_update(tx, compute_loss)
        (loss, _, _), updates, opt_state = update(model, opt_state, inputs, key)
        model = eqx.apply_updates(model, updates)
        return loss, model, opt_state, new_key

    model, key = to_float64_model(Classifier(jax.random.key(0))), jax.random.key(1)
    tx = game(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)))
    opt_state = tx.init(eqx.filter(model, eqx.is_array))
    for inputs in batches(sentence_batch):
        loss, model, opt_state, key = make_step(model, inputs, opt_state, key)
        yield eqx.filter(model, eqx.is_array), opt_state, loss


class Stateful(eqx.Module):
    """Two layers with batch normalization between them."""

    norm: eqx.nn.BatchNorm
    first: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key: Any) -> None:
        keys = jax.random.split(key, 2)
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch", dtype=jnp.float64)
        self.first = eqx.nn.Linear(3, 4, key=keys[0])
        self.last = eqx.nn.Linear(4, 3, key=keys[1])

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.norm(self.first(x), state)
        return self.last(jnp.tanh(x)), state


def regression_batch(rng: np.random.Generator) -> tuple[Any, Any]:
    x = rng.normal(size=(SAMPLES, 3))
    return x, np.sin(x) + 1


def original_stateful() -> Steps:
    def compute_loss(model: Any, state: Any, xs: Any, ys: Any) -> Any:
        batch_model = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        pred_ys, state = batch_model(xs, state)
        loss = jnp.mean((pred_ys - ys) ** 2)
        return loss, state

    @eqx.filter_jit
    def make_step(model: Any, state: Any, opt_state: Any, xs: Any, ys: Any) -> Any:
        grads, state = eqx.filter_grad(compute_loss, has_aux=True)(model, state, xs, ys)
        updates, opt_state = optim.update(grads, opt_state)
        model = eqx.apply_updates(model, updates)
        return model, state, opt_state

    model, state = eqx.nn.make_with_state(Stateful)(jax.random.key(0))
    model = to_float64_model(model)
    optim = optax.adam(0.1)
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))
    for xs, ys in batches(regression_batch):
        model, state, opt_state = make_step(model, state, opt_state, xs, ys)
        yield eqx.filter(model, eqx.is_array), opt_state, eqx.filter(state, eqx.is_array)


def converted_stateful(game: Game) -> Steps:
    def compute_loss(model: Any, state: Any, xs: Any, ys: Any) -> Any:
        batch_model = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        pred_ys, state = batch_model(xs, state)
        return gt.Losses(pred_ys, lambda pred_ys: ((pred_ys - ys) ** 2).mean(1), aux=state)

    @eqx.filter_jit
    def make_step(model: Any, state: Any, opt_state: Any, xs: Any, ys: Any) -> Any:
        update = gt.value_and_update(optim, compute_loss)
        (_, state, _), updates, opt_state = update(model, opt_state, state, xs, ys)
        model = eqx.apply_updates(model, updates)
        return model, state, opt_state

    model, state = eqx.nn.make_with_state(Stateful)(jax.random.key(0))
    model = to_float64_model(model)
    optim = game(optax.adam(0.1))
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))
    for xs, ys in batches(regression_batch):
        model, state, opt_state = make_step(model, state, opt_state, xs, ys)
        yield eqx.filter(model, eqx.is_array), opt_state, eqx.filter(state, eqx.is_array)
