"""The random numbers of the sketch: spread evenly, and different in every step and place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_jax.implicit.weighting.sketch import random_bits

STEPS, PLACES = 4096, 24


@pytest.fixture(scope="module")
def bits() -> np.ndarray:
    """Of the first steps, [STEPS, PLACES]."""
    return np.asarray(jax.vmap(lambda step: random_bits(step, PLACES))(jnp.arange(STEPS)))


def test_all_numbers_differ(bits: np.ndarray) -> None:
    assert bits.dtype == np.uint32 and bits.shape == (STEPS, PLACES)
    # Among 1e5 random numbers of 32 bits about one pair is equal.
    assert len(np.unique(bits)) > bits.size - 8


@pytest.mark.parametrize("draws", [2, 3, 7, 16, 64])
def test_draws_are_uniform_and_independent(bits: np.ndarray, draws: int) -> None:
    """Of one place over the steps, and of pairs of neighbouring steps and places."""
    drawn = bits % draws
    expected = STEPS / draws
    for place in range(PLACES):
        counts = np.bincount(drawn[:, place], minlength=draws)
        # Chi squared: mean draws - 1, variance twice that.
        chi = ((counts - expected) ** 2 / expected).sum()
        assert chi < draws - 1 + 6 * np.sqrt(2 * draws), place
    for first, second in ((drawn[:-1], drawn[1:]), (drawn[:, :-1], drawn[:, 1:])):
        equal = (first == second).mean()
        deviation = np.sqrt((1 - 1 / draws) / draws / first.size)
        assert abs(equal - 1 / draws) < 5 * deviation


def test_each_bit_depends_on_the_step(bits: np.ndarray) -> None:
    """Half of the bits change from a step to the next."""
    changed = np.unpackbits((bits[1:] ^ bits[:-1]).view(np.uint8)).mean()
    assert abs(changed - 0.5) < 0.003
    as_bits = np.unpackbits(bits.view(np.uint8), axis=-1).mean(0)
    assert np.abs(as_bits - 0.5).max() < 0.05


def test_they_are_the_same_numbers_forever() -> None:
    """Runs repeat bit by bit, whatever generator JAX is set to use, traced or not."""
    step = jnp.int32(7)
    want = random_bits(step, 3)
    assert want.tolist() == np.asarray(jax.jit(random_bits, static_argnums=1)(step, 3)).tolist()
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(random_bits(step, 3), want)
    np.testing.assert_array_equal(random_bits(step, 5)[:3], want)
