"""Train a network with the implicit game, all seeds at once, and yield after every epoch."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_lab.studies.figures.figure_trainer import CROSS_ENTROPY
from gtddp_lab.training.model_call import apply_with_state


class TrainingSnapshot(NamedTuple):
    """A training run between two epochs. Every array has a leading axis of seeds.

    Attributes:
        params: the parameters.
        state: the state of the game.
        loss: mean loss of the epoch's batches, each before its step, [seeds]; NaN at the start.
    """

    params: chex.ArrayTree
    state: Any
    loss: np.ndarray


def train_implicit(
    net: gt.Network,
    base: optax.GradientTransformation,
    weighting: str | gt.weighting.SampleWeighting | None,
    data: tuple[np.ndarray, np.ndarray],
    batch_size: int,
    epochs: int,
    seeds: int,
) -> Iterator[TrainingSnapshot]:
    """Yield the start, and the run after each epoch.

    Args:
        net: the network.
        base: the base optimizer.
        weighting: as for `gtddp_jax.implicit`; None for the base alone.
        data: images [N, ...] and labels [N].
        batch_size: samples per step; an incomplete last batch of an epoch is dropped.
        epochs: number of epochs.
        seeds: number of seeds; a seed determines the initial parameters and the batches.
    """
    images, labels = map(jnp.asarray, data)
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    variables = jax.jit(jax.vmap(lambda key: net.init_variables(key, images[:1])))(keys)

    def make_game(batch_stats: chex.ArrayTree) -> Any:
        # With strength 0 all weights are 1: the base alone, in the same program.
        return gt.implicit(
            base,
            functools.partial(apply_with_state, net),
            CROSS_ENTROPY,
            weighting="tail" if weighting is None else weighting,
            strength=0.0 if weighting is None else 1.0,
            has_aux=True,
            aux=batch_stats,
        )

    def init_state(params: chex.ArrayTree, batch_stats: chex.ArrayTree) -> Any:
        return make_game(batch_stats).init(params)

    def run_epoch(params: chex.ArrayTree, state: Any, order: jax.Array, key: jax.Array) -> Any:
        def step(carry: tuple[Any, Any], rows: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
            params, state = carry
            batch = (images[rows], state.aux, key), labels[rows]
            updates, state = make_game(state.aux).update(None, state, params, batch=batch)
            return (optax.apply_updates(params, updates), state), state.report.loss

        (params, state), losses = jax.lax.scan(step, (params, state), order)
        return params, state, losses

    params = variables["params"]
    state = jax.vmap(init_state)(params, variables["batch_stats"])
    compiled_epoch = jax.jit(jax.vmap(run_epoch))
    generators = [np.random.default_rng(seed) for seed in range(seeds)]
    # All seeds take the same number of steps, as vmap requires.
    steps = len(labels) // batch_size
    yield TrainingSnapshot(params, state, np.full(seeds, np.nan))
    for _ in range(epochs):
        rows = [rng.permutation(len(labels))[: steps * batch_size] for rng in generators]
        order = np.reshape(rows, (seeds, steps, batch_size))
        params, state, losses = compiled_epoch(params, state, order, keys)
        yield TrainingSnapshot(params, state, np.asarray(losses, np.float64).mean(1))
