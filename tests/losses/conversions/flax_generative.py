"""The step of Flax's example "vae" (linen), with a small model."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

import gtddp_jax as gt
from tests.losses.conversions.conversion import SAMPLES, Game, Steps, batches, to_float64


class VAE(nn.Module):
    """A linear encoder and decoder with two latent variables."""

    @nn.compact
    def __call__(self, x: Any, z_rng: Any) -> Any:
        mean, logvar = nn.Dense(2)(x), nn.Dense(2)(x)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(z_rng, logvar.shape)
        return nn.Dense(x.shape[-1])(z), mean, logvar


@jax.vmap
def kl_divergence(mean: Any, logvar: Any) -> Any:
    return -0.5 * jnp.sum(1 + logvar - jnp.square(mean) - jnp.exp(logvar))


@jax.vmap
def binary_cross_entropy_with_logits(logits: Any, labels: Any) -> Any:
    logits = nn.log_sigmoid(logits)
    return -jnp.sum(labels * logits + (1.0 - labels) * jnp.log(-jnp.expm1(logits)))


def compute_metrics(recon_x: Any, x: Any, mean: Any, logvar: Any) -> dict[str, Any]:
    bce_loss = binary_cross_entropy_with_logits(recon_x, x).mean()
    kld_loss = kl_divergence(mean, logvar).mean()
    return {"bce": bce_loss, "kld": kld_loss, "loss": bce_loss + kld_loss}


def pixels(rng: np.random.Generator) -> Any:
    return (rng.random((SAMPLES, 6)) < 0.5).astype(float)


def vae_params() -> Any:
    variables: Any = jax.jit(VAE().init)(jax.random.key(0), jnp.ones((1, 6)), jax.random.key(1))
    return to_float64(variables["params"])


@jax.jit
def evaluate(params: Any, batch: Any) -> dict[str, Any]:
    outputs: Any = VAE().apply({"params": params}, batch, jax.random.key(3))
    return compute_metrics(outputs[0], batch, *outputs[1:])


def original_vae() -> Steps:
    @jax.jit
    def train_step(state: Any, batch: Any, z_rng: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            recon_x, mean, logvar = state.apply_fn({"params": params}, batch, z_rng)
            bce_loss = binary_cross_entropy_with_logits(recon_x, batch).mean()
            kld_loss = kl_divergence(mean, logvar).mean()
            loss = bce_loss + kld_loss
            return loss

        grads = jax.grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads)

    tx = optax.adam(0.05)
    state = TrainState.create(apply_fn=VAE().apply, params=vae_params(), tx=tx)
    for batch in batches(pixels):
        state = train_step(state, batch, jax.random.fold_in(jax.random.key(2), state.step))
        yield state.params, state.opt_state, evaluate(state.params, batch)


def converted_vae(game: Game) -> Steps:
    @jax.jit
    def train_step(state: Any, batch: Any, z_rng: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            recon_x, mean, logvar = state.apply_fn({"params": params}, batch, z_rng)

            def per_sample(z: Any) -> Any:
                return binary_cross_entropy_with_logits(z[0], batch) + kl_divergence(*z[1:])

            return gt.Losses((recon_x, mean, logvar), per_sample)

        return gt.linen.apply_losses(state, loss_fn)[0]

    tx = game(optax.adam(0.05))
    state = TrainState.create(apply_fn=VAE().apply, params=vae_params(), tx=tx)
    for batch in batches(pixels):
        state = train_step(state, batch, jax.random.fold_in(jax.random.key(2), state.step))
        yield state.params, state.opt_state, evaluate(state.params, batch)
