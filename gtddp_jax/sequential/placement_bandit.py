"""Shortcuts whose stage is chosen in training: `Residual(at="bandit")`, by EXP3.

The stage beside which the player of a shortcut acts changes the game, not the network. Each step
plays one placement k of K, drawn from the probabilities p, and is judged by what it achieved:

| symbol | meaning                                                                      |
|--------|------------------------------------------------------------------------------|
| d      | decrease of the batch's mean loss by the step, on the same batch               |
| m, v   | means of d and (d - m)^2 over the steps before, weights `BASELINE_DECAY^age`  |
| r      | reward `1/2 + clip((d - m) / (4 sqrt(v)), -1/2, 1/2)`, in [0, 1]              |
| L      | `L_k += (gamma / K) (r - 1/2) / p_k` for the placement played                 |
| p      | `(1 - gamma) softmax(L) + gamma / K`                                          |

This is EXP3 (Auer, Cesa-Bianchi, Freund and Schapire 2002) with gamma = `EXPLORATION`. Its rewards
must be in [0, 1], so decreases are compared with those of recent steps; the constant 1/2 changes
no probability in expectation and makes the estimates less noisy. Several such shortcuts make one
bandit over the combinations of their placements.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from gtddp_jax.core.types import Count, Flag, Scalar
from gtddp_jax.curvature.base import CurvatureState

EXPLORATION = 0.1
"""gamma: the share of the steps whose placement is drawn uniformly."""
BASELINE_DECAY = 0.95
"""Decay of the running mean and variance with which a decrease is compared."""
MAX_PLACEMENTS = 16
"""Each placement is one more game in the compiled step."""

KeyPath: TypeAlias = tuple[Any, ...]


class PlacementState(NamedTuple):
    """What the bandit has learned.

    Attributes:
        key: the data of the random key of the next draw; another seed is
            `jax.random.key_data(jax.random.key(seed))` in its place.
        log_weights: L, [placements].
        decrease_mean: the running sum behind m.
        decrease_variance: the running sum behind v.
        total_weight: the sum of the weights in both.
        played: int32, the number of steps with each placement, [placements].
    """

    key: UInt32[Array, "..."]
    log_weights: Float[Array, " placements"]
    decrease_mean: Scalar
    decrease_variance: Scalar
    total_weight: Scalar
    played: Int[Array, " placements"]


def initial_placement_state(count: int) -> PlacementState:
    """The state before the first step: all placements are equally likely."""
    # Every field is an array of its own, because aliased buffers cannot be donated.
    return PlacementState(
        key=jax.random.key_data(jax.random.key(0)),
        log_weights=jnp.zeros(count, jnp.float32),
        decrease_mean=jnp.zeros((), jnp.float32),
        decrease_variance=jnp.zeros((), jnp.float32),
        total_weight=jnp.zeros((), jnp.float32),
        played=jnp.zeros(count, jnp.int32),
    )


def placement_probabilities(state: PlacementState) -> Float[Array, " placements"]:
    """The probabilities p from which the next placement is drawn."""
    softmax = jax.nn.softmax(state.log_weights)
    return (1 - EXPLORATION) * softmax + EXPLORATION / len(softmax)


def draw_placement(state: PlacementState) -> tuple[Count, PlacementState]:
    """A placement, and the state with the key of the next draw."""
    key, draw_key = jax.random.split(jax.random.wrap_key_data(state.key))
    log_probabilities = jnp.log(placement_probabilities(state))
    placement = jax.random.categorical(draw_key, log_probabilities)
    return placement, state._replace(key=jax.random.key_data(key))


def reward_placement(
    state: PlacementState, placement: Count, decrease: Scalar, counts: Flag
) -> PlacementState:
    """The state after a step with a placement, unchanged but for the key if it does not count.

    Args:
        state: the state from which the placement was drawn.
        placement: the placement.
        decrease: d.
        counts: whether the step was taken.
    """
    decrease = decrease.astype(jnp.float32)
    counts = counts & jnp.isfinite(decrease)
    decrease = jnp.where(counts, decrease, 0.0)
    # Compared with the steps before this one; the first has none and no say.
    seen = state.total_weight > 0
    weight = jnp.where(seen, state.total_weight, 1.0)
    mean = state.decrease_mean / weight
    deviation = jnp.sqrt(state.decrease_variance / weight)
    known = seen & (deviation > 0)
    standardized = (decrease - mean) / jnp.where(known, 4 * deviation, 1.0)
    excess = jnp.where(known, jnp.clip(standardized, -0.5, 0.5), 0.0)
    probability = placement_probabilities(state)[placement]
    rate = EXPLORATION / len(state.log_weights)
    log_weights = state.log_weights.at[placement].add(rate * excess / probability)
    share = 1 - BASELINE_DECAY
    new_mean = jnp.where(seen, mean, decrease)
    rewarded = PlacementState(
        state.key,
        # Only differences matter; without this the numbers would grow without limit.
        log_weights - log_weights.max(),
        BASELINE_DECAY * state.decrease_mean + share * decrease,
        BASELINE_DECAY * state.decrease_variance + share * jnp.square(decrease - new_mean),
        BASELINE_DECAY * state.total_weight + share,
        state.played.at[placement].add(1),
    )
    return jax.tree.map(lambda new, old: jnp.where(counts, new, old), rewarded, state)


def move_players(
    states: Sequence[CurvatureState], like: Sequence[CurvatureState], players: frozenset[str]
) -> tuple[CurvatureState, ...]:
    """The states of a curvature for each stage, where players act in other stages.

    A leaf under a player's name goes with the player; the others (counts of steps) stay with their
    stage.

    Args:
        states: the states by stage, from one placement.
        like: trees of the structure that another placement has.
        players: the names of all players.

    Raises:
        ValueError: the leaves of the two structures do not correspond.
    """
    given: Any = tuple(states)
    wanted: Any = tuple(like)
    leaves = {_place(path, players): leaf for path, leaf in jax.tree.leaves_with_path(given)}
    paths, structure = jax.tree.flatten_with_path(wanted)
    places = [_place(path, players) for path, _ in paths]
    shapes_fit = set(places) == set(leaves) and all(
        jnp.shape(leaves[place]) == jnp.shape(leaf)
        for place, (_, leaf) in zip(places, paths, strict=True)
    )
    if not shapes_fit:
        raise ValueError("gtddp: the curvature keeps statistics that belong to several players.")
    return jax.tree.unflatten(structure, [leaves[place] for place in places])


def _place(path: KeyPath, players: frozenset[str]) -> KeyPath:
    """The path without the stage, if a player's name is in it."""
    names = {getattr(entry, "key", None) for entry in path[1:]}
    return path[1:] if names & players else path
