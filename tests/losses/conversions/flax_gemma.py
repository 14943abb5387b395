"""The step of Flax's example "gemma" (nnx), with a small model."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import gtddp_jax as gt
from tests.losses.conversions.conversion import Game, Steps, batches, to_float64, token_batch

VOCABULARY = 5


class Transformer(nnx.Module):
    """One layer of attention, with dropout by streams that are an argument."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(VOCABULARY, 4, rngs=rngs)
        self.hidden, self.logits = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 5, rngs=rngs)
        self.dropout = nnx.Dropout(0.1)
        nnx.update(self, to_float64(nnx.state(self)))

    def __call__(self, tokens: Any, *, attention_mask: Any, rngs: Any) -> Any:
        """The logits [B, T, V], and the cache."""
        x = self.embed(tokens)
        scores = jnp.where(attention_mask, x @ x.swapaxes(1, 2), -1e9)
        x = x + self.dropout(nnx.tanh(self.hidden(nnx.softmax(scores) @ x)), rngs=rngs)
        return self.logits(x), None


def compute_weighted_cross_entropy(
    logits: Any, targets: Any, weights: Any, label_smoothing: float
) -> Any:
    """The losses of sequences, [B], whose mean is that over all tokens."""
    labels = optax.smooth_labels(jax.nn.one_hot(targets, VOCABULARY), label_smoothing)
    loss = optax.softmax_cross_entropy(logits, labels) * weights
    return loss.sum(axis=1) * len(loss) / weights.sum()


def make_metrics() -> Any:
    metrics = nnx.MultiMetric(loss=nnx.metrics.Average("loss"), accuracy=nnx.metrics.Accuracy())
    nnx.update(metrics, to_float64(nnx.state(metrics)))
    return metrics


def original_gemma() -> Steps:
    @nnx.jit
    def train_step(
        model: Any,
        optimizer: Any,
        rngs: Any,
        batch: Any,
        train_metrics: Any,
    ) -> None:
        inputs, targets = batch["inputs"], batch["targets"]
        input_mask = inputs > 0
        weights = input_mask.astype(jnp.float32)
        causal = jnp.tril(jnp.ones((inputs.shape[1], inputs.shape[1]), bool))
        attention_mask = input_mask[:, None, :] & causal[None]

        def loss_fn(model: Any, rngs: Any) -> Any:
            output = model(inputs, attention_mask=attention_mask, rngs=rngs)
            logits, _ = output
            loss_per_sample = compute_weighted_cross_entropy(logits, targets, weights, 0.1)
            mean_loss = loss_per_sample.mean()
            return mean_loss, (loss_per_sample, logits)

        grad_fn = nnx.value_and_grad(loss_fn, has_aux=True)
        (_, (loss_per_sample, logits)), grads = grad_fn(model, rngs.fork())
        optimizer.update(model, grads)
        train_metrics.update(
            loss=loss_per_sample, logits=logits, labels=targets, mask={"accuracy": input_mask}
        )

    model, rngs, train_metrics = Transformer(nnx.Rngs(0)), nnx.Rngs(1), make_metrics()
    optimizer = nnx.Optimizer(model, optax.adamw(0.05), wrt=nnx.Param)
    for batch in batches(token_batch):
        train_step(model, optimizer, rngs, batch, train_metrics)
        yield nnx.state((model, rngs.default.count)), optimizer.opt_state, train_metrics.compute()


def converted_gemma(game: Game) -> Steps:
    @nnx.jit
    def train_step(
        model: Any,
        optimizer: Any,
        rngs: Any,
        batch: Any,
        train_metrics: Any,
    ) -> None:
        inputs, targets = batch["inputs"], batch["targets"]
        input_mask = inputs > 0
        weights = input_mask.astype(jnp.float32)
        causal = jnp.tril(jnp.ones((inputs.shape[1], inputs.shape[1]), bool))
        attention_mask = input_mask[:, None, :] & causal[None]

        def loss_fn(model: Any, rngs: Any) -> Any:
            output = model(inputs, attention_mask=attention_mask, rngs=rngs)
            logits, _ = output

            def per_sample(logits: Any) -> Any:
                return compute_weighted_cross_entropy(logits, targets, weights, 0.1)

            return gt.Losses(logits, per_sample, aux=(per_sample(logits), logits))

        _, (loss_per_sample, logits), _ = gt.nnx.update(model, optimizer, loss_fn, rngs.fork())
        train_metrics.update(
            loss=loss_per_sample, logits=logits, labels=targets, mask={"accuracy": input_mask}
        )

    model, rngs, train_metrics = Transformer(nnx.Rngs(0)), nnx.Rngs(1), make_metrics()
    optimizer = nnx.Optimizer(model, game(optax.adamw(0.05)), wrt=nnx.Param)
    for batch in batches(token_batch):
        train_step(model, optimizer, rngs, batch, train_metrics)
        yield nnx.state((model, rngs.default.count)), optimizer.opt_state, train_metrics.compute()
