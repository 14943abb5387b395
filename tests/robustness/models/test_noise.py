"""Noise changes from step to step, and gradients are those of the plain loss at the same keys."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import gtddp_jax as gt
from tests.robustness.models.noisy import MODELS, VAE, CalledWithStreams, NoisyModel, OwnStream, X

Tree = Any
KEYS = jax.random.split(jax.random.key(7), 3)


def keys_by_name(model: NoisyModel, key: jax.Array) -> dict[str, jax.Array]:
    names = zip(model.keys, jax.random.split(key, len(model.keys)), strict=True)
    return {name: own for name, own in names}


def plain_gradient(model: NoisyModel, params: Tree, key: jax.Array) -> Tree:
    def mean_loss(params: Tree) -> jax.Array:
        outputs = model.apply(params, keys_by_name(model, key), X)
        return model.loss(outputs, model.targets).mean()

    return jax.grad(mean_loss)(params)


def check_equal(first: Tree, second: Tree) -> None:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    assert max(float(jnp.abs(a - b).max()) for a, b in pairs) < 1e-9


def differ(first: Tree, second: Tree) -> bool:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs) > 1e-4


def sequential(model: NoisyModel, **options: Any) -> Any:
    net = gt.from_flax(model.module, X, **model.options)
    return gt.sgd(net, model.loss, 1.0, batch_stats=model.state, **options)


@pytest.mark.parametrize("name", MODELS)
def test_sequential_gradients_are_those_of_the_plain_loss(name: str) -> None:
    model = MODELS[name]()
    tx = sequential(model, equilibrium="open_loop")
    state = tx.init(model.params)

    @jax.jit
    def updates_of(key: jax.Array) -> Tree:
        batch, rngs = (X, model.targets), keys_by_name(model, key)
        return tx.update(None, state, model.params, batch=batch, rngs=rngs)[0]

    found = []
    for key in KEYS[:2]:
        updates = updates_of(key)
        check_equal(updates, jax.tree.map(jnp.negative, plain_gradient(model, model.params, key)))
        found.append(updates)
    assert differ(*found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VAE", "nnx, streams in the call"])
def test_sequential_steps_train(name: str) -> None:
    """With feedback, in a compiled step that takes new keys."""
    model = MODELS[name]()
    net = gt.from_flax(model.module, X, **model.options)
    tx: Any = gt.adam(net, model.loss, 1e-2)
    step: Any = gt.make_update(tx)
    params, state = model.params, tx.init(model.params)
    losses = []
    for key in KEYS:
        params, state = step(params, state, (X, model.targets), keys_by_name(model, key))
        losses.append(float(state.report.loss))
    # At the first parameters again, another key gives another loss.
    _, again = step(
        model.params, tx.init(model.params), (X, model.targets), keys_by_name(model, KEYS[1])
    )
    assert abs(float(again.report.loss) - losses[0]) > 1e-4
    assert not state.report.skipped_steps and differ(params, model.params)


@pytest.mark.parametrize("name", MODELS)
def test_implicit_gradients_are_those_of_the_plain_loss(name: str) -> None:
    model = MODELS[name]()

    def apply_fn(params: Tree, inputs: Any) -> Any:
        x, key = inputs
        return model.apply(params, keys_by_name(model, key), x)

    tx: Any = gt.implicit(optax.sgd(1.0), apply_fn, model.loss, strength=0.0)
    state = tx.init(model.params)

    @jax.jit
    def updates_of(key: jax.Array) -> Tree:
        return tx.update(None, state, model.params, batch=((X, key), model.targets))[0]

    found = []
    for key in KEYS[:2]:
        updates = updates_of(key)
        check_equal(updates, jax.tree.map(jnp.negative, plain_gradient(model, model.params, key)))
        found.append(updates)
    assert differ(*found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VAE", "nnx, streams in the call"])
def test_implicit_steps_train(name: str) -> None:
    model = MODELS[name]()

    def apply_fn(params: Tree, inputs: Any) -> Any:
        x, key = inputs
        return model.apply(params, keys_by_name(model, key), x)

    tx: Any = gt.implicit(optax.sgd(0.1, momentum=0.9), apply_fn, model.loss, weighting="full")
    step: Any = gt.make_update(tx)
    params, state = model.params, tx.init(model.params)
    for key in KEYS:
        params, state = step(params, state, ((X, key), model.targets))
    assert not state.report.skipped_steps and differ(params, model.params)
    assert state.report.sample_weight_max - state.report.sample_weight_min > 1e-3


@pytest.mark.parametrize(
    "key", [jax.random.key(0), jax.random.PRNGKey(0)], ids=["typed", "untyped"]
)
def test_a_fixed_key_is_refused(key: jax.Array) -> None:
    with pytest.raises(gt.NetworkError) as error:
        gt.from_flax(VAE(), X, apply_kwargs={"z_rng": key})
    assert "is a random key, which would be the same in every step" in str(error.value)
    assert "key_arguments=('z_rng',)" in str(error.value)
    assert "rngs={'z_rng': key}" in str(error.value)
    with pytest.raises(gt.NetworkError, match="the inputs hold a random key, which is not per sam"):
        gt.from_flax(VAE(), (X, key))


def test_fixed_streams_are_refused() -> None:
    with pytest.raises(gt.NetworkError, match=r"apply_kwargs\['rngs'\] is a random key"):
        gt.from_flax(CalledWithStreams(), X, apply_kwargs={"rngs": nnx.Rngs(0)})


def test_an_argument_without_a_value_is_named() -> None:
    with pytest.raises(gt.NetworkError, match=r"missing 1 required .*'rngs'.*further inputs as"):
        gt.from_flax(CalledWithStreams(), X)


def test_every_step_needs_its_key() -> None:
    model = MODELS["VAE"]()
    tx = sequential(model)
    with pytest.raises(gt.NetworkError, match=r"rngs is missing \['z_rng'\]: the model draws"):
        tx.update(None, tx.init(model.params), model.params, batch=(X, model.targets))


def test_evaluation_takes_a_key_or_a_fixed_one() -> None:
    model, key = MODELS["VAE"](), jax.random.key(3)
    net = gt.from_flax(model.module, X, **model.options)
    with pytest.raises(gt.NetworkError, match="takes these keys in evaluation too"):
        net.apply(model.params, X)
    want = model.apply(model.params, {"z_rng": key}, X)
    check_equal(net.apply(model.params, X, rngs={"z_rng": key}), want)
    fixed = gt.from_flax(model.module, X, **model.options, eval_kwargs={"z_rng": key})
    check_equal(fixed.apply(model.params, X), want)


def test_evaluation_drops_nothing() -> None:
    evaluation = {"eval_kwargs": {"deterministic": True}}
    model = MODELS["stream of another name"]()
    net = gt.from_flax(model.module, X, **{**model.options, **evaluation})
    params: Any = model.params
    want = OwnStream().apply({"params": params}, X, deterministic=True)
    check_equal(net.apply(model.params, X), want)


def test_streams_of_two_names_are_drawn_apart() -> None:
    """An argument's key may have the name of a stream."""

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
            x = x + jax.random.normal(noise, x.shape)
            return nn.Dropout(0.5, deterministic=False)(nn.Dense(3, param_dtype=float)(x))

    net = gt.from_flax(Both(), X, key_arguments=("noise",))
    params = net.init(jax.random.key(0), X)
    plain: Any = params
    rngs = {"noise": KEYS[0], "dropout": KEYS[1]}
    got = net.apply(params, X, train=True, rngs=rngs)
    want = Both().apply({"params": plain}, X, KEYS[0], rngs={"dropout": KEYS[1]})
    check_equal(got, want)
    assert net.rng_collections == ("dropout", "noise")
