"""Flax models that were not written for this library, by name; most tests here run on all of them.

docs/bring_your_own_model.md shows the same table, and a test compares the two.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import gtddp_jax as gt

Tree = Any
DOUBLE: dict[str, Any] = {"param_dtype": jnp.float64}


class Classifier(nn.Module):
    """A perceptron with LayerNorm and a residual connection."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(nn.Dense(5)(x))
        x = x + nn.tanh(nn.Dense(5)(nn.LayerNorm()(x)))
        return nn.Dense(3)(x)


class ResNet(nn.Module):
    """Convolutions, BatchNorm, a strided block with a projection shortcut, dropout."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        def norm(x: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(norm(nn.Conv(3, (3, 3), use_bias=False)(x)))
        h = nn.relu(norm(nn.Conv(4, (3, 3), strides=2, use_bias=False)(x)))
        h = norm(nn.Conv(4, (3, 3), use_bias=False)(h))
        x = nn.relu(h + norm(nn.Conv(4, (1, 1), strides=2, use_bias=False)(x)))
        x = nn.Dropout(0.2, deterministic=not train)(x.mean((1, 2)))
        return nn.Dense(3)(x)


class DenseNet(nn.Module):
    """Every layer reads the concatenated features of all layers before it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(3):
            h = nn.Conv(2, (3, 3))(nn.tanh(nn.GroupNorm(1)(x)))
            x = jnp.concatenate([x, h], axis=-1)
        return nn.Dense(3)(nn.avg_pool(x, (2, 2), strides=(2, 2)).mean((1, 2)))


class UNet(nn.Module):
    """Down- and upsampling with a skip connection; outputs are feature maps."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        top = nn.tanh(nn.Conv(3, (3, 3))(x))
        low = nn.tanh(nn.Conv(4, (3, 3))(nn.max_pool(top, (2, 2), strides=(2, 2))))
        up = nn.ConvTranspose(3, (2, 2), strides=(2, 2))(low)
        return nn.Conv(2, (1, 1))(jnp.concatenate([top, up], axis=-1))


class Mixer(nn.Module):
    """Dense layers across positions and across features."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(4, (2, 2), strides=(2, 2))(x).reshape(x.shape[0], -1, 4)
        h = nn.Dense(4)(nn.gelu(nn.Dense(3)(nn.LayerNorm()(x).swapaxes(1, 2))))
        x = x + h.swapaxes(1, 2)
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(3)(nn.LayerNorm()(x))))
        return nn.Dense(3)(x.mean(1))


class Block(nn.Module):
    """A transformer block: attention and a perceptron, each after a LayerNorm."""

    width: int = 4
    causal: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.LayerNorm()(x)
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2])) if self.causal else None
        x = x + nn.MultiHeadDotProductAttention(2)(h, mask=mask)
        return x + nn.Dense(self.width)(nn.gelu(nn.Dense(6)(nn.LayerNorm()(x))))


class ViT(nn.Module):
    """A vision transformer: patches, a class token, learned positions, attention."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(4, (2, 2), strides=(2, 2))(x)
        x = x.reshape(x.shape[0], -1, 4)
        token = self.param("cls", nn.initializers.normal(1.0), (1, 1, 4))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 4)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(1.0), (1, x.shape[1], 4))
        return nn.Dense(3)(nn.LayerNorm()(Block()(x))[:, 0])


class GPT(nn.Module):
    """A causal language model whose output layer is its embedding."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embed = nn.Embed(7, 4)
        x = embed(tokens) + nn.Embed(5, 4)(jnp.arange(tokens.shape[1]))[None]
        for _ in range(2):
            x = nn.remat(Block)(causal=True)(x)
        return embed.attend(nn.LayerNorm()(x))


class LSTM(nn.Module):
    """A recurrent network over a sequence."""

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        x = nn.RNN(nn.LSTMCell(3, **DOUBLE))(nn.Dense(3)(x))
        return nn.Dense(2)(x[:, -1])


class Scanned(nn.Module):
    """A stack of equal layers as one `nn.scan`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
                return x + nn.tanh(nn.Dense(4)(x)), None

        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers()(nn.Dense(4)(x), None)
        return nn.Dense(2)(x)


class Einsums(nn.Module):
    """Named contractions, and layers on merged axes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(nn.Einsum((2, 3, 4), "btd,hdk->bhtk")(x[..., :3]))
        x = nn.DenseGeneral(3, axis=(1, 3))(x)
        x = nn.tanh(nn.Dense(4)(x.reshape(-1, 3))).reshape(x.shape[0], -1)
        # A kernel that is stored in another order of its axes.
        kernel = self.param("columns_first", nn.initializers.normal(1.0), (2, x.shape[-1]))
        return x @ jnp.reshape(kernel, kernel.shape[::-1], order="F")


class Reparametrised(nn.Module):
    """Weights that are functions of the parameters: weight norm, low-rank products."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(nn.WeightNorm(nn.Dense(4))(x))
        down = self.param("down", nn.initializers.normal(1.0), (4, 2))
        up = self.param("up", nn.initializers.normal(1.0), (2, 3))
        return x @ (down @ up) / jnp.exp(self.param("temperature", nn.initializers.zeros, ()))


class Spectral(nn.Module):
    """A weight divided by its largest singular value, which is part of the state."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(nn.SpectralNorm(nn.Dense(4))(x, update_stats=True))
        return nn.Dense(2)(x)


class Shared(nn.Module):
    """One layer in three places."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer, x = nn.Dense(4), nn.Dense(4)(x)
        for _ in range(3):
            x = x + nn.tanh(layer(x))
        return nn.Dense(2)(x)


class TwoInTwoOut(nn.Module):
    """Two inputs, one of which is tokens, and a tree of outputs."""

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array) -> dict[str, jax.Array]:
        h = nn.tanh(nn.Dense(4)(x)) + nn.Embed(5, 4)(tokens).mean(1)
        return {"class": nn.Dense(3)(h), "value": nn.Dense(1)(h)[:, 0]}


class NnxNet(nnx.Module):
    """An nnx network: convolution, BatchNorm, dropout."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs, **DOUBLE)
        self.norm = nnx.BatchNorm(3, rngs=rngs, **DOUBLE)
        self.norm.mean = nnx.BatchStat(jnp.zeros(3, jnp.float64))
        self.norm.var = nnx.BatchStat(jnp.ones(3, jnp.float64))
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(3, 2, rngs=rngs, **DOUBLE)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(x)))
        return self.head(self.dropout(x.mean((1, 2))))


class NnxTransformer(nnx.Module):
    """An nnx transformer with a tied embedding."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(7, 4, rngs=rngs, **DOUBLE)
        self.norm = nnx.LayerNorm(4, rngs=rngs, **DOUBLE)
        self.attend = nnx.MultiHeadAttention(2, 4, rngs=rngs, decode=False, **DOUBLE)
        self.up = nnx.Linear(4, 6, rngs=rngs, **DOUBLE)
        self.down = nnx.Linear(6, 4, rngs=rngs, **DOUBLE)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        x = x + self.attend(self.norm(x))
        return self.embed.attend(x + self.down(nnx.gelu(self.up(x))))


class Spec(NamedTuple):
    """How to build a model.

    Attributes:
        contents: what it consists of, for the documentation.
        make: builds the module.
        inputs: draws a batch of inputs from a random generator and a batch size.
        options: options of `from_flax`.
        coupled: whether samples are coupled (BatchNorm).
        nonlinear: whether the nonlinear rollout is well defined.
        batch: number of samples of a batch. nnx's attention rounds to float32 internally; dividing
            the loss by two samples is exact, by three it is not.
    """

    contents: str
    make: Callable[[], Any]
    inputs: Callable[[np.random.Generator, int], Any]
    options: Mapping[str, Any] = {}
    coupled: bool = False
    nonlinear: bool = True
    batch: int = 3


def floats(*shape: int) -> Callable[[np.random.Generator, int], jax.Array]:
    return lambda draw, batch: jnp.asarray(draw.normal(size=(batch, *shape)))


def tokens(vocabulary: int, *shape: int) -> Callable[[np.random.Generator, int], jax.Array]:
    return lambda draw, batch: jnp.asarray(draw.integers(0, vocabulary, size=(batch, *shape)))


IMAGES = floats(4, 4, 2)
MODES = {"apply_kwargs": {"train": True}, "eval_kwargs": {"train": False}}

ZOO: dict[str, Spec] = {
    "perceptron": Spec("linen, LayerNorm, residual", Classifier, floats(4)),
    "resnet": Spec(
        "linen, BatchNorm, dropout, projection shortcut", ResNet, IMAGES, MODES, coupled=True
    ),
    "densenet": Spec("linen, concatenated features, GroupNorm", DenseNet, IMAGES),
    "unet": Spec("linen, transposed convolution, skip connection, output maps", UNet, IMAGES),
    "mixer": Spec("linen MLP-Mixer, dense layers across positions", Mixer, IMAGES),
    "vit": Spec("linen vision transformer, class token, positions", ViT, IMAGES),
    "gpt": Spec(
        "linen language model, tied embedding, `nn.remat`", GPT, tokens(7, 5), nonlinear=False
    ),
    "lstm": Spec("linen `nn.RNN` of an LSTM cell", LSTM, floats(4, 2)),
    "scanned": Spec("linen `nn.scan` over layers", Scanned, floats(3)),
    "einsum": Spec("linen `nn.Einsum`, `nn.DenseGeneral`, merged axes", Einsums, floats(2, 3)),
    "reparametrised": Spec("linen `nn.WeightNorm`, low-rank products", Reparametrised, floats(3)),
    "spectral": Spec("linen `nn.SpectralNorm`, statistics of weights", Spectral, floats(3)),
    "shared": Spec("linen, one layer in three places", Shared, floats(3)),
    "two_inputs": Spec(
        "linen, two inputs, a tree of outputs",
        TwoInTwoOut,
        lambda draw, batch: (floats(3)(draw, batch), tokens(5, 2)(draw, batch)),
    ),
    "nnx": Spec("nnx, BatchNorm, dropout", lambda: NnxNet(nnx.Rngs(0)), IMAGES, coupled=True),
    "nnx_transformer": Spec(
        "nnx, attention, tied embedding",
        lambda: NnxTransformer(nnx.Rngs(0)),
        tokens(7, 3),
        nonlinear=False,
        batch=2,
    ),
}
"""All models by name."""


class Problem(NamedTuple):
    """A model as a network with random float64 parameters and one batch."""

    spec: Spec
    model: Any
    net: gt.TracedNetwork
    params: Tree
    batch_stats: Tree
    inputs: Any
    rngs: dict[str, jax.Array]


def problem(name: str, batch: int | None = None) -> Problem:
    """The model of the zoo with this name, with `batch` samples or its own number."""
    spec = ZOO[name]
    draw = np.random.default_rng(0)
    inputs = spec.inputs(draw, batch or spec.batch)
    model = spec.make()
    net = gt.from_flax(model, inputs, **spec.options)
    variables = net.init_variables(jax.random.key(0), inputs)

    def random_leaf(leaf: jax.Array) -> jax.Array:
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.5
        return jnp.asarray(scale * draw.normal(size=leaf.shape))

    def to_float64(leaf: jax.Array) -> jax.Array:
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    stats = jax.tree.map(to_float64, variables["batch_stats"])
    rngs = {} if name.startswith("nnx") else {"dropout": jax.random.key(1)}
    params = jax.tree.map(random_leaf, variables["params"])
    return Problem(spec, model, net, params, stats, inputs, rngs)
