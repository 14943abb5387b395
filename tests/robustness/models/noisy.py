"""Everyday models that draw random numbers or keep other state, each with its plain call."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

Tree = Any
BATCH, FEATURES = 4, 3
X = np.sin(np.arange(float(BATCH * FEATURES))).reshape(BATCH, FEATURES)
LABELS = np.arange(BATCH) % FEATURES
CROSS_ENTROPY = optax.softmax_cross_entropy_with_integer_labels


class NoisyModel(NamedTuple):
    """A model as its users call it.

    Attributes:
        module: the module.
        options: of `from_flax`.
        keys: names of the keys that a step passes.
        loss: from outputs and targets to [B].
        targets: the targets.
        apply: from parameters, keys by name and inputs to outputs, without `from_flax`.
        params: initial parameters.
        state: initial other state, or None.
    """

    module: Any
    options: Mapping[str, Any]
    keys: tuple[str, ...]
    loss: Callable[[Any, Any], jax.Array]
    targets: Any
    apply: Callable[[Tree, Mapping[str, jax.Array], Any], Any]
    params: Tree
    state: Tree | None = None


def _dense(features: int, **options: Any) -> nn.Dense:
    return nn.Dense(features, param_dtype=float, **options)


class VAE(nn.Module):
    """The autoencoder of Flax's examples: the latent noise comes from an argument."""

    @nn.compact
    def __call__(self, x: jax.Array, z_rng: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        hidden = nn.tanh(_dense(4)(x))
        mean, log_variance = _dense(2, name="mean")(hidden), _dense(2, name="variance")(hidden)
        noise = jax.random.normal(z_rng, log_variance.shape)
        latent = mean + noise * jnp.exp(0.5 * log_variance)
        return _dense(FEATURES)(nn.tanh(_dense(4)(latent))), mean, log_variance


def evidence_bound(outputs: Any, targets: jax.Array) -> jax.Array:
    """Reconstruction error and divergence of each sample."""
    logits, mean, log_variance = outputs
    divergence = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum(-1)
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1) + divergence


class CalledWithStreams(nnx.Module):
    """Random streams are passed to the call, as in recent nnx examples."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(FEATURES, 4, rngs=rngs, param_dtype=float)
        self.dropout = nnx.Dropout(0.5)
        self.last = nnx.Linear(4, FEATURES, rngs=rngs, param_dtype=float)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs) -> jax.Array:
        hidden = nnx.tanh(self.first(x))
        noise = jax.random.normal(rngs.noise(), hidden.shape)
        return self.last(self.dropout(hidden + 0.1 * noise, rngs=rngs))


class OwnStream(nn.Module):
    """Dropout from a stream of another name, recomputed in the backward pass."""

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> dict[str, jax.Array]:
        layer = nn.remat(nn.Dropout, static_argnums=(2,))
        x = layer(0.5, rng_collection="drops")(nn.tanh(_dense(4)(x)), deterministic)
        return {"logits": _dense(FEATURES)(x)}


class ScannedLayer(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return nn.Dropout(0.3, deterministic=False)(nn.tanh(_dense(FEATURES)(x))), None


class Scanned(nn.Module):
    """Two layers with dropout in a scan, each with its own keys."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        streams: Any = {"params": True, "dropout": True}
        layers = nn.scan(ScannedLayer, {"params": 0}, split_rngs=streams, length=2)
        return _dense(FEATURES)(layers(name="layers")(x, None)[0])


class Spectral(nn.Module):
    """A layer that is divided by an estimate of its largest singular value."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first = nn.SpectralNorm(_dense(4, name="first"), collection_name="spectral")
        x = nn.Dropout(0.3, deterministic=False)(nn.tanh(first(x, update_stats=True)))
        return _dense(FEATURES)(x)


def _linen(
    module: nn.Module, keys: tuple[str, ...], call: Mapping[str, Any], **options: Any
) -> NoisyModel:
    """A linen module with cross entropy, whose keys are streams."""
    streams = {name: jax.random.key(5) for name in ("params", *keys)}
    variables = dict(module.init(streams, X, **call))
    params = variables.pop("params")
    # Some layers create their state in float32.
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), variables)

    def apply(params: Tree, rngs: Mapping[str, jax.Array], x: Any) -> Any:
        given = {**state, "params": params}
        return module.apply(given, x, mutable=list(state), rngs=dict(rngs), **call)[0]

    def loss(outputs: Any, labels: jax.Array) -> jax.Array:
        return CROSS_ENTROPY(jax.tree.leaves(outputs)[0], labels)

    return NoisyModel(module, options, keys, loss, LABELS, apply, params, state or None)


def _vae() -> NoisyModel:
    module = VAE()
    params = module.init(jax.random.key(0), X, jax.random.key(1))["params"]
    return NoisyModel(
        module,
        {"key_arguments": ("z_rng",)},
        ("z_rng",),
        evidence_bound,
        (X > 0).astype(float),
        lambda params, rngs, x: module.apply({"params": params}, x, rngs["z_rng"]),
        params,
    )


def _called_with_streams() -> NoisyModel:
    module = CalledWithStreams()
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return NoisyModel(
        module,
        {"key_arguments": ("rngs",), "rng_collections": ("dropout", "noise")},
        ("dropout", "noise"),
        CROSS_ENTROPY,
        LABELS,
        lambda params, rngs, x: nnx.merge(graph, params, rest)(x, nnx.Rngs(**rngs)),
        params,
    )


MODELS: dict[str, Callable[[], NoisyModel]] = {
    "VAE": _vae,
    "nnx, streams in the call": _called_with_streams,
    "stream of another name": lambda: _linen(
        OwnStream(),
        ("drops",),
        {"deterministic": False},
        rng_collections=("drops",),
        apply_kwargs={"deterministic": False},
    ),
    "dropout in a scan": lambda: _linen(Scanned(), ("dropout",), {}),
    "spectral normalization": lambda: _linen(Spectral(), ("dropout",), {}),
}
