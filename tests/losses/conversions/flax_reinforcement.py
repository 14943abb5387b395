"""The step of Flax's example "ppo" (linen), with a small model."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

import gtddp_jax as gt
from tests.losses.conversions.conversion import SAMPLES, Game, Steps, batches, to_float64

ACTIONS = 3


class ActorCritic(nn.Module):
    """Log probabilities of actions [B, A] and values [B, 1]."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.tanh(nn.Dense(4)(x))
        return nn.log_softmax(nn.Dense(ACTIONS)(x)), nn.Dense(1)(x)


def policy_action(apply_fn: Any, params: Any, states: Any) -> Any:
    return apply_fn({"params": params}, states)


def trajectories(rng: np.random.Generator) -> tuple[Any, ...]:
    """Two minibatches of states, actions, log probabilities, returns and advantages."""
    count = 2 * SAMPLES
    states, actions = rng.normal(size=(count, 3)), rng.integers(0, ACTIONS, count)
    return states, actions, np.full(count, -1.1), rng.normal(size=count), rng.normal(size=count)


def agent_params() -> Any:
    return to_float64(jax.jit(ActorCritic().init)(jax.random.key(0), jnp.ones((1, 3)))["params"])


def original_ppo() -> Steps:
    def loss_fn(params: Any, apply_fn: Any, minibatch: Any, clip: Any, vf: Any, ent: Any) -> Any:
        states, actions, old_log_probs, returns, advantages = minibatch
        log_probs, values = policy_action(apply_fn, params, states)
        values = values[:, 0]
        probs = jnp.exp(log_probs)
        value_loss = jnp.mean(jnp.square(returns - values), axis=0)
        entropy = jnp.sum(-probs * log_probs, axis=1).mean()
        log_probs_act_taken = jax.vmap(lambda lp, a: lp[a])(log_probs, actions)
        ratios = jnp.exp(log_probs_act_taken - old_log_probs)
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        pg_loss = ratios * advantages
        clipped_loss = advantages * jax.lax.clamp(1.0 - clip, ratios, 1.0 + clip)
        ppo_loss = -jnp.mean(jnp.minimum(pg_loss, clipped_loss), axis=0)
        return ppo_loss + vf * value_loss - ent * entropy

    @partial(jax.jit, static_argnums=(2,))
    def train_step(state: Any, trajectories: Any, size: int, clip: Any, vf: Any, ent: Any) -> Any:
        iterations = trajectories[0].shape[0] // size
        trajectories = jax.tree.map(
            lambda x: x.reshape((iterations, size, *x.shape[1:])), trajectories
        )
        loss = 0.0
        for batch in zip(*trajectories, strict=True):
            grad_fn = jax.value_and_grad(loss_fn)
            args = state.apply_fn, batch, clip, vf, ent
            value, grads = grad_fn(state.params, *args)
            loss += value
            state = state.apply_gradients(grads=grads)
        return state, loss

    tx = optax.adam(0.05)
    state = TrainState.create(apply_fn=ActorCritic().apply, params=agent_params(), tx=tx)
    for experience in batches(trajectories):
        state, loss = train_step(state, experience, SAMPLES, 0.1, 0.5, 0.01)
        yield state.params, state.opt_state, loss


def converted_ppo(game: Game) -> Steps:
    def loss_fn(params: Any, apply_fn: Any, minibatch: Any, clip: Any, vf: Any, ent: Any) -> Any:
        def per_sample(outputs: Any) -> Any:
            _, actions, old_log_probs, returns, advantages = minibatch
            log_probs, values = outputs
            values = values[:, 0]
            probs = jnp.exp(log_probs)
            value_loss = jnp.square(returns - values)
            entropy = jnp.sum(-probs * log_probs, axis=1)
            log_probs_act_taken = jax.vmap(lambda lp, a: lp[a])(log_probs, actions)
            ratios = jnp.exp(log_probs_act_taken - old_log_probs)
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            pg_loss = ratios * advantages
            clipped_loss = advantages * jax.lax.clamp(1.0 - clip, ratios, 1.0 + clip)
            ppo_loss = -jnp.minimum(pg_loss, clipped_loss)
            return ppo_loss + vf * value_loss - ent * entropy

        return gt.Losses(policy_action(apply_fn, params, minibatch[0]), per_sample)

    @partial(jax.jit, static_argnums=(2,))
    def train_step(state: Any, trajectories: Any, size: int, clip: Any, vf: Any, ent: Any) -> Any:
        iterations = trajectories[0].shape[0] // size
        trajectories = jax.tree.map(
            lambda x: x.reshape((iterations, size, *x.shape[1:])), trajectories
        )
        loss = 0.0
        for batch in zip(*trajectories, strict=True):
            args = state.apply_fn, batch, clip, vf, ent
            state, (value, _, _) = gt.linen.apply_losses(state, loss_fn, *args)
            loss += value
        return state, loss

    tx = game(optax.adam(0.05))
    state = TrainState.create(apply_fn=ActorCritic().apply, params=agent_params(), tx=tx)
    for experience in batches(trajectories):
        state, loss = train_step(state, experience, SAMPLES, 0.1, 0.5, 0.01)
        yield state.params, state.opt_state, loss
