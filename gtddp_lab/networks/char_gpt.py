"""A small language model over bytes."""

import flax.linen as nn
import jax
import jax.numpy as jnp

import gtddp_jax as gt
from gtddp_lab.networks.block_styles import Layers


class ByteEmbedding(nn.Module):
    """Maps bytes to features, with a learned vector for every position.

    Attributes:
        codes: Number of different bytes.
        features: Length of a vector.
    """

    codes: int
    features: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Map images [B, T, 1, 1], bytes divided by 255, to features [B, T, features]."""
        codes = jnp.rint(255 * images[:, :, 0, 0]).astype(jnp.int32)
        positions = nn.Embed(codes.shape[1], self.features, name="positions")
        embedded = nn.Embed(self.codes, self.features, name="codes")(codes)
        return embedded + positions(jnp.arange(codes.shape[1]))[None]


class CausalAttention(nn.Module):
    """Self-attention in which a position sees itself and those before it.

    Attributes:
        heads: Number of heads; it divides the number of features.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, T, features] to the same shape."""
        by_head = (*x.shape[:2], self.heads, x.shape[-1] // self.heads)
        query, key, value = (
            nn.Dense(x.shape[-1], use_bias=False, name=name)(x).reshape(by_head)
            for name in ("query", "key", "value")
        )
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return nn.Dense(x.shape[-1], use_bias=False, name="out")(attended.reshape(x.shape))


def char_gpt(classes: int, width: int = 64, blocks: int = 2, heads: int = 4) -> gt.Network:
    """Build a GPT for texts: blocks of attention and a perceptron, normalized first.

    Its outputs are scores [B, T, classes] of the byte after every position.

    Args:
        classes: Number of different bytes.
        width: Features of every position.
        blocks: Number of blocks.
        heads: Heads of attention; they divide ``width``.
    """
    layers: Layers = [ByteEmbedding(classes, width)]
    for _ in range(blocks):
        layers += [
            gt.Residual([nn.LayerNorm(), CausalAttention(heads)]),
            gt.Residual([nn.LayerNorm(), nn.Dense(4 * width), nn.gelu, nn.Dense(width)]),
        ]
    return gt.Network([*layers, nn.LayerNorm(), nn.Dense(classes)])
