"""The step of Flax's example "ogbg_molpcba" (linen), with a small model.

Graphs of one batch are stored one after the other and padded to a fixed number of nodes; the last
graph is padding. A label that is unknown is NaN.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

import gtddp_jax as gt
from tests.losses.conversions.conversion import SAMPLES, Game, Steps, batches, to_float64

TASKS = 3
NODES = 12


class Graphs(NamedTuple):
    """Nodes [n, 2], edges [e] by their two nodes, the graph of each node [n], and labels [B, C]."""

    nodes: Any
    senders: Any
    receivers: Any
    graph: Any
    labels: Any


def graphs(rng: np.random.Generator) -> Graphs:
    labels = rng.integers(0, 2, (SAMPLES, TASKS)).astype(float)
    labels[rng.random(labels.shape) < 0.3] = np.nan
    nodes = np.arange(NODES)
    return Graphs(rng.normal(size=(NODES, 2)), nodes, nodes ^ 1, nodes // 2, labels)


class GraphConvNet(nn.Module):
    """Messages along the edges, dropout, and the sum over the nodes of each graph."""

    deterministic: bool

    @nn.compact
    def __call__(self, graphs: Graphs) -> Any:
        x = nn.Dropout(0.1, deterministic=self.deterministic)(nn.tanh(nn.Dense(4)(graphs.nodes)))
        x = x + jax.ops.segment_sum(x[graphs.senders], graphs.receivers, NODES)
        return nn.Dense(TASKS)(jax.ops.segment_sum(x, graphs.graph, SAMPLES))


def binary_cross_entropy_with_mask(logits: Any, labels: Any, mask: Any) -> Any:
    # A NaN must not reach the gradient.
    labels = jnp.where(mask, labels, -1)
    positive_logits = logits >= 0
    relu_logits = jnp.where(positive_logits, logits, 0)
    abs_logits = jnp.where(positive_logits, logits, -logits)
    return relu_logits - (logits * labels) + (jnp.log(1 + jnp.exp(-abs_logits)))


def train_metrics(loss: Any, logits: Any, labels: Any, mask: Any) -> dict[str, Any]:
    matches = ((logits > 0) == labels).astype(float)
    return {"loss": loss.mean(), "accuracy": matches.mean(), "labels": mask.sum()}


def get_valid_mask(labels: Any) -> Any:
    return ~jnp.isnan(labels) & (jnp.arange(SAMPLES) < SAMPLES - 1)[:, None]


def graph_params() -> Any:
    variables: Any = jax.jit(GraphConvNet(True).init)(jax.random.key(0), next(batches(graphs)))
    return to_float64(variables)


def original_ogbg() -> Steps:
    @jax.jit
    def train_step(state: Any, graphs: Any, rngs: Any) -> Any:
        def loss_fn(params: Any, graphs: Any) -> Any:
            labels = graphs.labels
            logits = state.apply_fn(params, graphs, rngs=rngs)
            mask = get_valid_mask(labels)
            loss = binary_cross_entropy_with_mask(logits=logits, labels=labels, mask=mask)
            mean_loss = jnp.sum(jnp.where(mask, loss, 0)) / jnp.sum(mask)
            return mean_loss, (loss, logits, labels, mask)

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, (loss, logits, labels, mask)), grads = grad_fn(state.params, graphs)
        state = state.apply_gradients(grads=grads)
        return state, train_metrics(loss=loss, logits=logits, labels=labels, mask=mask)

    tx = optax.adam(0.05)
    state = TrainState.create(apply_fn=GraphConvNet(False).apply, params=graph_params(), tx=tx)
    for batch in batches(graphs):
        state, metrics = train_step(state, batch, {"dropout": jax.random.key(1)})
        yield state.params, state.opt_state, metrics


def converted_ogbg(game: Game) -> Steps:
    @jax.jit
    def train_step(state: Any, graphs: Any, rngs: Any) -> Any:
        def loss_fn(params: Any, graphs: Any) -> Any:
            labels = graphs.labels
            logits = state.apply_fn(params, graphs, rngs=rngs)
            mask = get_valid_mask(labels)
            loss = partial(binary_cross_entropy_with_mask, labels=labels, mask=mask)
            return gt.Losses(logits, loss, mask, aux=(loss(logits), logits, labels, mask))

        state, (_, (loss, logits, labels, mask), _) = gt.linen.apply_losses(state, loss_fn, graphs)
        return state, train_metrics(loss=loss, logits=logits, labels=labels, mask=mask)

    tx = game(optax.adam(0.05))
    state = TrainState.create(apply_fn=GraphConvNet(False).apply, params=graph_params(), tx=tx)
    for batch in batches(graphs):
        state, metrics = train_step(state, batch, {"dropout": jax.random.key(1)})
        yield state.params, state.opt_state, metrics
