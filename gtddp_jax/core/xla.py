"""Workarounds for the XLA compiler.

No function here changes a number; what changes is the program that XLA makes of it. Each gain is
given as with against without the workaround: medians of the CPU time of interleaved runs on two
shared cores, and the compiler's figure for temporary memory. They do not hold on other platforms.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from gtddp_jax.core.explicit_sharding import is_spread

PACKED_SIZE = 2**14
"""The largest array, in numbers, that `pack_small_arrays` concatenates with others."""

CONV_CHUNK_NUMBERS = {"cpu": 2**19}
"""Numbers in the convolution patches of one chunk of samples, by platform."""
DEFAULT_CONV_CHUNK_NUMBERS = 2**26
"""The same on other platforms, where it bounds memory only."""

BRANCHES_ARE_CHEAP = ("cpu",)
"""The platforms on which `jax.lax.cond` does not make the host wait for a number of the device."""


def compute_once(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """The same numbers, which XLA computes once instead of wherever they are used."""
    # The position of a block was computed anew in each of the kernels that read the block. A step
    # of the implicit game with a GPT of two layers: 9400 against 13 200 operations.
    return jax.lax.optimization_barrier(x)


def map_unstacked(
    function: Callable[[jax.Array], jax.Array], arrays: Sequence[jax.Array]
) -> Shaped[Array, "n ..."]:
    """`jax.vmap(function)(jnp.stack(arrays))`, without the stack."""
    # What a stack is computed from, XLA computes number by number. Adam's update of 32 rows of 512
    # numbers for two gradients: 0.03 against 0.17 ms.
    return jnp.stack([function(array) for array in arrays])


def pack_small_arrays(arrays: list[jax.Array]) -> list[jax.Array]:
    """The arrays as vectors, large ones first; those up to `PACKED_SIZE` as one vector.

    An array of which devices hold different parts, by axes of type Explicit, keeps its shape.
    """
    # Each reduction has a fixed cost, and a model has many small arrays. The inner product of two
    # trees of 240 arrays of 64 or 256 numbers: 0.73 against 1.19 ms.
    whole = [array.ravel() for array in arrays if not is_spread(array)]
    small = [vector for vector in whole if vector.size <= PACKED_SIZE]
    large = [vector for vector in whole if vector.size > PACKED_SIZE]
    large += [array for array in arrays if is_spread(array)]
    return [*large, jnp.concatenate(small)] if small else large


def conv_chunk_size(patch_numbers: int) -> int:
    """The number of samples whose convolution patches are extracted at once.

    Args:
        patch_numbers: the numbers in the patches of one sample.
    """
    # Patches are many times larger than the input and are slow to read once they leave the cache.
    # Per-sample gradients of a 3x3 convolution of 32 channels, 32x32, B = 128: 133 against 342 ms.
    limit = CONV_CHUNK_NUMBERS.get(jax.default_backend(), DEFAULT_CONV_CHUNK_NUMBERS)
    return max(1, limit // patch_numbers)
