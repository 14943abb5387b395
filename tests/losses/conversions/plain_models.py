"""The steps of optax's examples "adversarial_training" and "nanolm", with small models."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt
from tests.losses.conversions.conversion import Game, Steps, batches, images, to_float64

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


class CNN(nn.Module):
    """A convolution and logits."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Conv(2, (3, 3), strides=2)(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def original_adversarial() -> Steps:
    def loss_fun(params: Any, l2reg: float, data: Any) -> Any:
        inputs, labels = data
        logits: Any = net.apply({"params": params}, inputs)
        sqnorm = optax.tree.norm(params, squared=True)
        loss_value = jnp.mean(cross_entropy(logits, labels))
        return loss_value + 0.5 * l2reg * sqnorm

    def pgd_attack(image: Any, label: Any, params: Any, epsilon: float, maxiter: int = 2) -> Any:
        image_perturbation = jnp.zeros_like(image)

        def adversarial_loss(perturbation: Any) -> Any:
            return loss_fun(params, 0, (image + perturbation, label))

        grad_adversarial = jax.grad(adversarial_loss)
        for _ in range(maxiter):
            sign_grad = jnp.sign(grad_adversarial(image_perturbation))
            image_perturbation += (2 * epsilon / maxiter) * sign_grad
            image_perturbation = jnp.clip(image_perturbation, -epsilon, epsilon)
        return jnp.clip(image + image_perturbation, 0, 1)

    @jax.jit
    def train_step(params: Any, opt_state: Any, batch: Any) -> Any:
        images, labels = batch
        adversarial_images_train = pgd_attack(images, labels, params, epsilon=0.01)
        loss_grad_fun = jax.grad(loss_fun)
        grads = loss_grad_fun(params, 1e-4, (adversarial_images_train, labels))
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return params, opt_state

    net = CNN()
    var_params = to_float64(jax.jit(net.init)(jax.random.key(0), jnp.ones((1, 4, 4, 1)))["params"])
    optimizer = optax.adam(0.1)
    opt_state = optimizer.init(var_params)
    for batch in batches(images):
        data = jax.nn.sigmoid(batch["image"]), batch["label"]
        var_params, opt_state = train_step(var_params, opt_state, data)
        yield var_params, opt_state, pgd_attack(*data, var_params, 0.01)


def converted_adversarial(game: Game) -> Steps:
    def loss_fun(params: Any, l2reg: float, data: Any) -> Any:
        inputs, labels = data
        logits: Any = net.apply({"params": params}, inputs)
        sqnorm = optax.tree.norm(params, squared=True)
        return gt.Losses(logits, partial(cross_entropy, labels=labels), None, 0.5 * l2reg * sqnorm)

    def pgd_attack(image: Any, label: Any, params: Any, epsilon: float, maxiter: int = 2) -> Any:
        image_perturbation = jnp.zeros_like(image)

        def adversarial_loss(perturbation: Any) -> Any:
            return gt.mean_loss(loss_fun)(params, 0, (image + perturbation, label))[0]

        grad_adversarial = jax.grad(adversarial_loss)
        for _ in range(maxiter):
            sign_grad = jnp.sign(grad_adversarial(image_perturbation))
            image_perturbation += (2 * epsilon / maxiter) * sign_grad
            image_perturbation = jnp.clip(image_perturbation, -epsilon, epsilon)
        return jnp.clip(image + image_perturbation, 0, 1)

    @jax.jit
    def train_step(params: Any, opt_state: Any, batch: Any) -> Any:
        images, labels = batch
        adversarial_images_train = pgd_attack(images, labels, params, epsilon=0.01)
        update = gt.value_and_update(optimizer, loss_fun)
        _, updates, opt_state = update(params, opt_state, 1e-4, (adversarial_images_train, labels))
        params = optax.apply_updates(params, updates)
        return params, opt_state

    net = CNN()
    var_params = to_float64(jax.jit(net.init)(jax.random.key(0), jnp.ones((1, 4, 4, 1)))["params"])
    optimizer = game(optax.adam(0.1))
    opt_state = optimizer.init(var_params)
    for batch in batches(images):
        data = jax.nn.sigmoid(batch["image"]), batch["label"]
        var_params, opt_state = train_step(var_params, opt_state, data)
        yield var_params, opt_state, pgd_attack(*data, var_params, 0.01)


class NanoLM(nn.Module):
    """Embeddings, a causal mean in place of attention, and a layer with dropout."""

    @nn.compact
    def __call__(self, x: Any, training: bool) -> Any:
        x = nn.Embed(5, 4)(x) + nn.Embed(4, 4)(jnp.arange(x.shape[1]))[None]
        x = jnp.cumsum(x, 1) / jnp.arange(1.0, x.shape[1] + 1)[None, :, None]
        x = x + nn.Dropout(0.2, deterministic=not training)(nn.tanh(nn.Dense(4)(x)))
        return nn.Dense(5)(x)


def get_batch(random_key: Any) -> tuple[Any, Any]:
    tokens = jax.random.randint(random_key, (6, 5), 0, 5)
    return tokens[:, :-1], tokens[:, 1:]


def language_params(key: Any) -> Any:
    init = jax.jit(partial(NanoLM().init, training=False))
    return to_float64(init(key, jnp.ones((1, 4), int)))


def original_nanolm() -> Steps:
    def loss_fun(params: Any, x: Any, y: Any, dropout_key: Any) -> Any:
        logits: Any = model.apply(params, x, training=True, rngs={"dropout": dropout_key})
        return cross_entropy(logits=logits, labels=y).mean()

    @jax.jit
    def step(key: Any, params: Any, opt_state: Any) -> Any:
        key, subkey = jax.random.split(key)
        batch = get_batch(key)
        loss, grad = jax.value_and_grad(loss_fun)(params, *batch, subkey)
        updates, opt_state = opt.update(grad, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, key, opt_state, loss

    model, key = NanoLM(), jax.random.key(0)
    var_params = language_params(key)
    opt = optax.adamw(learning_rate=0.1)
    opt_state = opt.init(var_params)
    for _ in batches(images):
        var_params, key, opt_state, loss = step(key, var_params, opt_state)
        yield var_params, opt_state, loss


def converted_nanolm(game: Game) -> Steps:
    def loss_fun(params: Any, x: Any, y: Any, dropout_key: Any) -> Any:
        logits: Any = model.apply(params, x, training=True, rngs={"dropout": dropout_key})
        return gt.Losses(logits, partial(cross_entropy, labels=y))

    @jax.jit
    def step(key: Any, params: Any, opt_state: Any) -> Any:
        key, subkey = jax.random.split(key)
        batch = get_batch(key)
        update = gt.value_and_update(opt, loss_fun)
        (loss, _, _), updates, opt_state = update(params, opt_state, *batch, subkey)
        params = optax.apply_updates(params, updates)
        return params, key, opt_state, loss

    model, key = NanoLM(), jax.random.key(0)
    var_params = language_params(key)
    opt = game(optax.adamw(learning_rate=0.1))
    opt_state = opt.init(var_params)
    for _ in batches(images):
        var_params, key, opt_state, loss = step(key, var_params, opt_state)
        yield var_params, opt_state, loss
