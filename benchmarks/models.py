"""Existing Flax models that the benchmarks share."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Perceptron(nn.Module):
    """Dense layers with rectifiers, and ten scores."""

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps features [B, n] to scores [B, 10]."""
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(10)(x)


class ResidualConvolutions(nn.Module):
    """Residual 3x3 convolutions at one resolution, then the mean over pixels."""

    width: int
    blocks: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to scores [B, 10]."""
        x = nn.relu(nn.Conv(self.width, (3, 3), self.stride)(x))
        for _ in range(self.blocks):
            x = x + nn.relu(nn.Conv(self.width, (3, 3))(x))
        return nn.Dense(10)(x.mean((1, 2)))


class ResNet18(nn.Module):
    """ResNet-18 for CIFAR, without pooling after the first convolution.

    Attributes:
        groups: groups of a GroupNorm; `None` takes BatchNorm.
    """

    groups: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images [B, 32, 32, 3] to scores [B, 10]."""

        def norm(x: jax.Array) -> jax.Array:
            if self.groups is not None:
                return nn.GroupNorm(self.groups)(x)
            return nn.BatchNorm(use_running_average=False)(x)

        x = nn.relu(norm(nn.Conv(64, (3, 3), use_bias=False)(x)))
        for stage, width in enumerate((64, 128, 256, 512)):
            for block in range(2):
                strides = 2 if stage > 0 and block == 0 else 1
                h = nn.relu(norm(nn.Conv(width, (3, 3), strides=strides, use_bias=False)(x)))
                h = norm(nn.Conv(width, (3, 3), use_bias=False)(h))
                if x.shape != h.shape:
                    x = norm(nn.Conv(width, (1, 1), strides=strides, use_bias=False)(x))
                x = nn.relu(x + h)
        return nn.Dense(10)(x.mean((1, 2)))


class Block(nn.Module):
    """A transformer block."""

    width: int
    heads: int
    causal: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, width] to the same shape."""
        h = nn.LayerNorm()(x)
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2])) if self.causal else None
        x = x + nn.MultiHeadDotProductAttention(self.heads)(h, mask=mask)
        h = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
        return x + nn.Dense(self.width)(h)


class ViT(nn.Module):
    """A vision transformer of six layers on 8 x 8 patches of 4 x 4 pixels."""

    width: int = 128

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images [B, 32, 32, 3] to scores [B, 10]."""
        x = nn.Conv(self.width, (4, 4), strides=(4, 4))(x).reshape(x.shape[0], -1, self.width)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        for _ in range(6):
            x = Block(self.width, 4)(x)
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


class GPT(nn.Module):
    """A language model with a tied embedding."""

    vocabulary: int = 8192
    width: int = 128
    layers: int = 6

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens [B, T] to scores [B, T, V]."""
        embed = nn.Embed(self.vocabulary, self.width)
        x = embed(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        for _ in range(self.layers):
            x = Block(self.width, 4, causal=True)(x)
        return embed.attend(nn.LayerNorm()(x))


class LayerInLoop(nn.Module):
    """A transformer block as the body of `nn.scan`."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        """Maps [B, T, width] to the same shape, and nothing."""
        return Block(x.shape[-1], 4, causal=True)(x), None


class ScannedGPT(nn.Module):
    """A language model whose layers are a loop over stacked parameters."""

    vocabulary: int = 256
    width: int = 128
    layers: int = 4

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens [B, T] to scores [B, T, V]."""
        embed = nn.Embed(self.vocabulary, self.width)
        layers = nn.scan(
            LayerInLoop,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
        )
        x, _ = layers()(embed(tokens), None)
        return embed.attend(nn.LayerNorm()(x))


class BiLSTM(nn.Module):
    """A text classifier: an embedding and an LSTM in both directions."""

    vocabulary: int = 2000
    width: int = 128

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens [B, T] to scores [B, 10]."""
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        forward = nn.RNN(nn.OptimizedLSTMCell(self.width))
        backward = nn.RNN(nn.OptimizedLSTMCell(self.width), reverse=True, keep_order=True)
        x = nn.Bidirectional(forward, backward)(x)
        return nn.Dense(10)(nn.relu(nn.Dense(self.width)(x.mean(1))))


class GraphNetwork(nn.Module):
    """Message passing over dense adjacencies, then the mean over nodes."""

    width: int = 128
    rounds: int = 4

    @nn.compact
    def __call__(self, graph: Any) -> jax.Array:
        """Maps (adjacency [B, N, N], nodes [B, N, n]) to scores [B, 10]."""
        adjacency, x = graph
        x = nn.Dense(self.width)(x)
        for _ in range(self.rounds):
            message = nn.relu(nn.Dense(self.width)(x))
            x = x + nn.Dense(self.width)(nn.relu(adjacency @ message))
        return nn.Dense(10)(x.mean(1))


class VAE(nn.Module):
    """The variational autoencoder of the Flax examples."""

    hidden: int = 500
    latents: int = 20

    @nn.compact
    def __call__(self, x: jax.Array, noise: jax.Array) -> tuple[jax.Array, ...]:
        """Maps images [B, 784] and noise [B, latents] to logits, mean and log-variance."""
        h = nn.relu(nn.Dense(self.hidden)(x))
        mean, logvar = nn.Dense(self.latents)(h), nn.Dense(self.latents)(h)
        z = mean + jnp.exp(0.5 * logvar) * noise
        return nn.Dense(784)(nn.relu(nn.Dense(self.hidden)(z))), mean, logvar
