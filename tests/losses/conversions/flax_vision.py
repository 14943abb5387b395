"""The steps of Flax's examples "mnist" (nnx) and "imagenet" (linen), with small models."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training import train_state

import gtddp_jax as gt
from tests.losses.conversions.conversion import Game, Steps, batches, images, to_float64

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


class CNN(nnx.Module):
    """A convolution with batch normalization, and dropout by streams that are an argument."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 2, (3, 3), strides=2, rngs=rngs)
        self.batch_norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.25)
        self.linear = nnx.Linear(8, 3, rngs=rngs)
        nnx.update(self, to_float64(nnx.state(self)))

    def __call__(self, x: Any, rngs: Any) -> Any:
        x = nnx.relu(self.batch_norm(self.dropout(self.conv(x), rngs=rngs)))
        return self.linear(x.reshape(x.shape[0], -1))


def make_metrics() -> Any:
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
    nnx.update(metrics, to_float64(nnx.state(metrics)))
    return metrics


def original_mnist() -> Steps:
    def loss_fn(model: Any, batch: Any, rngs: Any) -> Any:
        logits = model(batch["image"], rngs)
        loss = cross_entropy(logits=logits, labels=batch["label"]).mean()
        return loss, logits

    @nnx.jit
    def train_step(model: Any, optimizer: Any, metrics: Any, batch: Any, rngs: Any) -> None:
        grad_fn = nnx.value_and_grad(loss_fn, has_aux=True)
        (loss, logits), grads = grad_fn(model, batch, rngs)
        metrics.update(loss=loss, logits=logits, labels=batch["label"])
        optimizer.update(model, grads)

    @nnx.jit
    def eval_step(model: Any, metrics: Any, batch: Any) -> None:
        loss, logits = loss_fn(model, batch, None)
        metrics.update(loss=loss, logits=logits, labels=batch["label"])

    model, rngs = CNN(nnx.Rngs(0)), nnx.Rngs(1)
    optimizer = nnx.Optimizer(model, optax.sgd(0.3, 0.9), wrt=nnx.Param)
    metrics = make_metrics()
    for batch in batches(images):
        model.train()
        train_step(model, optimizer, metrics, batch, rngs)
        model.eval()
        eval_step(model, metrics, batch)
        yield nnx.state((model, rngs.dropout.count)), optimizer.opt_state, metrics.compute()


def converted_mnist(game: Game) -> Steps:
    def loss_fn(model: Any, batch: Any, rngs: Any) -> Any:
        logits = model(batch["image"], rngs)
        return gt.Losses(logits, partial(cross_entropy, labels=batch["label"]), aux=logits)

    @nnx.jit
    def train_step(model: Any, optimizer: Any, metrics: Any, batch: Any, rngs: Any) -> None:
        loss, logits, _ = gt.nnx.update(model, optimizer, loss_fn, batch, rngs)
        metrics.update(loss=loss, logits=logits, labels=batch["label"])

    @nnx.jit
    def eval_step(model: Any, metrics: Any, batch: Any) -> None:
        loss, logits = gt.mean_loss(loss_fn)(model, batch, None)
        metrics.update(loss=loss, logits=logits, labels=batch["label"])

    model, rngs = CNN(nnx.Rngs(0)), nnx.Rngs(1)
    optimizer = nnx.Optimizer(model, game(optax.sgd(0.3, 0.9)), wrt=nnx.Param)
    metrics = make_metrics()
    for batch in batches(images):
        model.train()
        train_step(model, optimizer, metrics, batch, rngs)
        model.eval()
        eval_step(model, metrics, batch)
        yield nnx.state((model, rngs.dropout.count)), optimizer.opt_state, metrics.compute()


class ResNet(nn.Module):
    """A residual block with batch normalization."""

    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.Conv(2, (3, 3), strides=2)(x)
        x = nn.relu(x + norm()(nn.Conv(2, (3, 3))(x)))
        return nn.Dense(3)(x.mean((1, 2)))


def cross_entropy_loss(logits: Any, labels: Any) -> Any:
    one_hot_labels = jax.nn.one_hot(labels, 3)
    xentropy = optax.softmax_cross_entropy(logits=logits, labels=one_hot_labels)
    return jnp.mean(xentropy)


def compute_metrics(logits: Any, labels: Any) -> dict[str, Any]:
    loss = cross_entropy_loss(logits, labels)
    accuracy = jnp.mean(jnp.argmax(logits, -1) == labels)
    return {"loss": loss, "accuracy": accuracy}


class BatchNormState(train_state.TrainState):
    """A train state with running statistics."""

    batch_stats: Any


def original_imagenet() -> Steps:
    @partial(jax.jit, static_argnames="learning_rate_fn")
    def train_step(state: Any, batch: Any, learning_rate_fn: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            logits, new_model_state = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats},
                batch["image"],
                mutable=["batch_stats"],
            )
            loss = cross_entropy_loss(logits, batch["label"])
            weight_penalty_params = jax.tree.leaves(params)
            weight_decay = 0.0001
            weight_l2 = sum(jnp.sum(x**2) for x in weight_penalty_params if x.ndim > 1)
            weight_penalty = weight_decay * 0.5 * weight_l2
            loss = loss + weight_penalty
            return loss, (new_model_state, logits)

        lr = learning_rate_fn(state.step)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        aux, grads = grad_fn(state.params)
        new_model_state, logits = aux[1]
        metrics = compute_metrics(logits, batch["label"])
        metrics["learning_rate"] = lr
        new_state = state.apply_gradients(grads=grads, batch_stats=new_model_state["batch_stats"])
        return new_state, metrics

    learning_rate_fn = optax.cosine_decay_schedule(0.3, 10)
    model = ResNet()
    variables = to_float64(jax.jit(model.init)(jax.random.key(0), next(batches(images))["image"]))
    tx = optax.sgd(learning_rate_fn, momentum=0.9, nesterov=True)
    state = BatchNormState.create(apply_fn=model.apply, tx=tx, **variables)
    for batch in batches(images):
        state, metrics = train_step(state, batch, learning_rate_fn)
        yield (state.params, state.batch_stats), state.opt_state, metrics


def converted_imagenet(game: Game) -> Steps:
    @partial(jax.jit, static_argnames="learning_rate_fn")
    def train_step(state: Any, batch: Any, learning_rate_fn: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            logits, new_model_state = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats},
                batch["image"],
                mutable=["batch_stats"],
            )
            loss = partial(jax.vmap(cross_entropy_loss), labels=batch["label"])
            weight_penalty_params = jax.tree.leaves(params)
            weight_decay = 0.0001
            weight_l2 = sum(jnp.sum(x**2) for x in weight_penalty_params if x.ndim > 1)
            weight_penalty = weight_decay * 0.5 * weight_l2
            return gt.Losses(logits, loss, None, weight_penalty, (new_model_state, logits))

        lr = learning_rate_fn(state.step)
        new_state, aux = gt.linen.apply_losses(state, loss_fn)
        new_model_state, logits = aux[1]
        metrics = compute_metrics(logits, batch["label"])
        metrics["learning_rate"] = lr
        new_state = new_state.replace(batch_stats=new_model_state["batch_stats"])
        return new_state, metrics

    learning_rate_fn = optax.cosine_decay_schedule(0.3, 10)
    model = ResNet()
    variables = to_float64(jax.jit(model.init)(jax.random.key(0), next(batches(images))["image"]))
    tx = game(optax.sgd(learning_rate_fn, momentum=0.9, nesterov=True))
    state = BatchNormState.create(apply_fn=model.apply, tx=tx, **variables)
    for batch in batches(images):
        state, metrics = train_step(state, batch, learning_rate_fn)
        yield (state.params, state.batch_stats), state.opt_state, metrics
