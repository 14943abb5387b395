"""The steps of Flax's examples "lm1b" and "sst2" (linen), with small models."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

import gtddp_jax as gt
from tests.losses.conversions.conversion import (
    SAMPLES,
    Game,
    Steps,
    batches,
    to_float64,
    token_batch,
)

VOCABULARY = 5


class LanguageModel(nn.Module):
    """Embedding, a causal mean, dropout and logits."""

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        x = nn.Embed(VOCABULARY, 4)(tokens)
        x = jnp.cumsum(x, 1) / jnp.arange(1.0, x.shape[1] + 1)[None, :, None]
        x = nn.Dropout(0.2, deterministic=False)(nn.tanh(nn.Dense(4)(x)))
        return nn.Dense(VOCABULARY)(x)


def compute_weighted_cross_entropy(
    logits: Any, targets: Any, weights: Any = None, label_smoothing: float = 0.0
) -> Any:
    """The sum of the losses of tokens, and what to divide it by."""
    confidence = 1.0 - label_smoothing
    low_confidence = (1.0 - confidence) / (VOCABULARY - 1)
    normalizing_constant = -(
        confidence * jnp.log(confidence)
        + (VOCABULARY - 1) * low_confidence * jnp.log(low_confidence + 1e-20)
    )
    one_hot = jax.nn.one_hot(targets, VOCABULARY)
    soft_targets = one_hot * (confidence - low_confidence) + low_confidence
    loss = -jnp.sum(soft_targets * nn.log_softmax(logits), axis=-1) - normalizing_constant
    normalizing_factor = np.prod(targets.shape)
    if weights is not None:
        loss = loss * weights
        normalizing_factor = weights.sum()
    return loss.sum(), normalizing_factor


def compute_metrics(logits: Any, labels: Any, weights: Any) -> dict[str, Any]:
    loss, weight_sum = compute_weighted_cross_entropy(logits, labels, weights)
    accuracy = (jnp.equal(jnp.argmax(logits, axis=-1), labels) * weights).sum()
    return {"loss": loss, "accuracy": accuracy, "denominator": weight_sum}


def language_params() -> Any:
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return to_float64(jax.jit(LanguageModel().init)(rngs, jnp.ones((1, 3), int))["params"])


def original_lm1b() -> Steps:
    @jax.jit
    def train_step(state: Any, batch: Any, dropout_rng: Any, label_smoothing: float = 0.1) -> Any:
        inputs = batch["inputs"]
        weights = jnp.where(inputs > 0, 1, 0).astype(jnp.float32)
        dropout_rng = jax.random.fold_in(dropout_rng, state.step)

        def loss_fn(params: Any) -> Any:
            logits = LanguageModel().apply(
                {"params": params}, inputs, rngs={"dropout": dropout_rng}
            )
            loss, weight_sum = compute_weighted_cross_entropy(
                logits, inputs, weights, label_smoothing
            )
            mean_loss = loss / weight_sum
            return mean_loss, logits

        lr = learning_rate_fn(state.step)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, logits), grads = grad_fn(state.params)
        new_state = state.apply_gradients(grads=grads)
        metrics = compute_metrics(logits, inputs, weights)
        metrics["learning_rate"] = lr
        return new_state, metrics

    learning_rate_fn = optax.linear_schedule(0.02, 0.1, 5)
    tx = optax.adamw(learning_rate_fn, b1=0.9, b2=0.98, weight_decay=0.1)
    state = TrainState.create(apply_fn=None, params=language_params(), tx=tx)
    for batch in batches(token_batch):
        state, metrics = train_step(state, batch, jax.random.key(2))
        yield state.params, state.opt_state, metrics


def converted_lm1b(game: Game) -> Steps:
    @jax.jit
    def train_step(state: Any, batch: Any, dropout_rng: Any, label_smoothing: float = 0.1) -> Any:
        inputs = batch["inputs"]
        weights = jnp.where(inputs > 0, 1, 0).astype(jnp.float32)
        dropout_rng = jax.random.fold_in(dropout_rng, state.step)

        def loss_fn(params: Any) -> Any:
            logits = LanguageModel().apply(
                {"params": params}, inputs, rngs={"dropout": dropout_rng}
            )
            loss = partial(compute_weighted_cross_entropy, label_smoothing=label_smoothing)
            token_loss = jax.vmap(jax.vmap(loss))
            return gt.Losses(logits, lambda z: token_loss(z, inputs)[0], weights, aux=logits)

        lr = learning_rate_fn(state.step)
        new_state, (_, logits, _) = gt.linen.apply_losses(state, loss_fn)
        metrics = compute_metrics(logits, inputs, weights)
        metrics["learning_rate"] = lr
        return new_state, metrics

    learning_rate_fn = optax.linear_schedule(0.02, 0.1, 5)
    tx = game(optax.adamw(learning_rate_fn, b1=0.9, b2=0.98, weight_decay=0.1))
    state = TrainState.create(apply_fn=None, params=language_params(), tx=tx)
    for batch in batches(token_batch):
        state, metrics = train_step(state, batch, jax.random.key(2))
        yield state.params, state.opt_state, metrics


class TextClassifier(nn.Module):
    """The mean of the embeddings of a sentence, dropout and one logit."""

    @nn.compact
    def __call__(self, token_ids: Any, length: Any, *, deterministic: bool) -> Any:
        inside = jnp.arange(token_ids.shape[1])[None] < length[:, None]
        x = (nn.Embed(VOCABULARY, 4)(token_ids) * inside[..., None]).sum(1) / length[:, None]
        x = nn.Dropout(0.2)(nn.tanh(nn.Dense(4)(x)), deterministic=deterministic)
        return nn.Dense(1)(x)


@jax.vmap
def sigmoid_cross_entropy_with_logits(*, labels: Any, logits: Any) -> Any:
    zeros = jnp.zeros_like(logits)
    condition = logits >= zeros
    relu_logits = jnp.where(condition, logits, zeros)
    neg_abs_logits = jnp.where(condition, -logits, logits)
    return relu_logits - logits * labels + jnp.log1p(jnp.exp(neg_abs_logits))


def compute_sentence_metrics(*, labels: Any, logits: Any) -> dict[str, Any]:
    labels = jnp.expand_dims(labels, axis=1)
    loss = sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    binary_accuracy = jnp.equal(logits >= 0.0, labels)
    return {"loss": jnp.sum(loss), "accuracy": jnp.sum(binary_accuracy), "count": len(logits)}


def sentences(rng: np.random.Generator) -> dict[str, Any]:
    """Tokens [B, T], their number [B] and a label [B]."""
    return {
        "token_ids": rng.integers(0, VOCABULARY, (SAMPLES, 4)),
        "length": rng.integers(1, 5, SAMPLES),
        "label": rng.integers(0, 2, SAMPLES).astype(float),
    }


def sentence_params() -> Any:
    arguments = jnp.ones((2, 3), int), jnp.ones(2, int)
    init = jax.jit(partial(TextClassifier().init, deterministic=True))
    variables = init(jax.random.key(0), *arguments)
    return to_float64(variables["params"])


def original_sst2() -> Steps:
    @jax.jit
    def train_step(state: Any, batch: Any, rngs: Any) -> Any:
        step = state.step
        rngs = {name: jax.random.fold_in(rng, step) for name, rng in rngs.items()}

        def loss_fn(params: Any) -> Any:
            variables = {"params": params}
            logits = state.apply_fn(
                variables, batch["token_ids"], batch["length"], deterministic=False, rngs=rngs
            )
            labels = batch["label"]
            if labels.ndim == 1:
                labels = jnp.expand_dims(labels, 1)
            loss = jnp.mean(sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))
            return loss, logits

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        value, grads = grad_fn(state.params)
        (_, logits) = value
        new_state = state.apply_gradients(grads=grads)
        metrics = compute_sentence_metrics(labels=batch["label"], logits=logits)
        return new_state, metrics

    tx = optax.chain(optax.sgd(0.5, momentum=0.9), optax.add_decayed_weights(3e-6))
    state = TrainState.create(apply_fn=TextClassifier().apply, params=sentence_params(), tx=tx)
    for batch in batches(sentences):
        state, metrics = train_step(state, batch, {"dropout": jax.random.key(1)})
        yield state.params, state.opt_state, metrics


def converted_sst2(game: Game) -> Steps:
    @jax.jit
    def train_step(state: Any, batch: Any, rngs: Any) -> Any:
        step = state.step
        rngs = {name: jax.random.fold_in(rng, step) for name, rng in rngs.items()}

        def loss_fn(params: Any) -> Any:
            variables = {"params": params}
            logits = state.apply_fn(
                variables, batch["token_ids"], batch["length"], deterministic=False, rngs=rngs
            )
            labels = batch["label"]
            if labels.ndim == 1:
                labels = jnp.expand_dims(labels, 1)

            def loss(logits: Any) -> Any:
                return sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)

            return gt.Losses(logits, loss, aux=logits)

        new_state, (_, logits, _) = gt.linen.apply_losses(state, loss_fn)
        metrics = compute_sentence_metrics(labels=batch["label"], logits=logits)
        return new_state, metrics

    tx = game(optax.chain(optax.sgd(0.5, momentum=0.9), optax.add_decayed_weights(3e-6)))
    state = TrainState.create(apply_fn=TextClassifier().apply, params=sentence_params(), tx=tx)
    for batch in batches(sentences):
        state, metrics = train_step(state, batch, {"dropout": jax.random.key(1)})
        yield state.params, state.opt_state, metrics
