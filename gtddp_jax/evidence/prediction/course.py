"""Trains a network by the implicit game, all seeds at once, and stops after every epoch."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_jax.evidence.figures.training import LOSS
from gtddp_jax.training.model import implicit_apply

Tree = Any


class Moment(NamedTuple):
    """A training run between two epochs. Every array has the seeds in front.

    Attributes:
        params: the parameters.
        state: the state of the game.
        loss: mean loss of the epoch's batches, each before its step, [seeds]; of the first batch at
            the start.
    """

    params: Tree
    state: Any
    loss: np.ndarray


def train(
    net: gt.Network,
    base: optax.GradientTransformation,
    weights: Any,
    data: tuple[np.ndarray, np.ndarray],
    batch: int,
    epochs: int,
    seeds: int,
) -> Iterator[Moment]:
    """The start, and the run after each epoch.

    Args:
        net: the network.
        base: the base optimizer.
        weights: as in `gtddp_jax.implicit`; None for the base alone.
        data: images [N, ...] and labels [N].
        batch: samples in a step; what is left of an epoch is dropped.
        epochs: number of epochs.
        seeds: number of seeds; seed s initialises with key s and draws its batches with it.
    """
    images, labels = map(jnp.asarray, data)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    variables = jax.jit(jax.vmap(lambda key: net.init_variables(key, images[:1])))(keys)

    def game(statistics: Tree) -> Any:
        return gt.implicit(
            base,
            functools.partial(implicit_apply, net),
            LOSS,
            weights="tail" if weights is None else weights,
            strength=0.0 if weights is None else 1.0,
            has_aux=True,
            aux=statistics,
        )

    def start(params: Tree, statistics: Tree) -> Tree:
        return game(statistics).init(params)

    def advance(params: Tree, state: Any, rows: jax.Array, key: jax.Array) -> Any:
        def step(carry: tuple[Tree, Any], rows: jax.Array) -> tuple[tuple[Tree, Any], jax.Array]:
            params, state = carry
            given = (images[rows], state.aux, key), labels[rows]
            updates, state = game(state.aux).update(None, state, params, batch=given)
            return (optax.apply_updates(params, updates), state), state.report.loss

        (params, state), losses = jax.lax.scan(step, (params, state), rows)
        return params, state, losses

    params = variables["params"]
    state = jax.vmap(start)(params, variables["batch_stats"])
    epoch = jax.jit(jax.vmap(advance))
    draws = [np.random.default_rng(seed) for seed in range(seeds)]
    steps = len(labels) // batch
    yield Moment(params, state, np.full(seeds, np.nan))
    for _ in range(epochs):
        rows = [rng.permutation(len(labels))[: steps * batch] for rng in draws]
        params, state, losses = epoch(params, state, np.reshape(rows, (seeds, steps, batch)), keys)
        yield Moment(params, state, np.asarray(losses, np.float64).mean(1))
