"""Common mistakes are answered by an error that names the argument, not by one of JAX."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import gtddp_jax as gt
from tests.implicit import models
from tests.robustness.composition.games import GAMES, NET, Game, batch, try_update, zeros

each_game = pytest.mark.parametrize("game", GAMES, ids=lambda game: game.name)
SGD, ADAM = optax.sgd(0.1), optax.adam(0.1)


def with_aux(params: Any, x: jax.Array) -> Any:
    """A model with an auxiliary output."""
    return models.mlp(params, x), {"mean": x.mean(0), "inputs": x}


def named(params: Any, x: jax.Array) -> Any:
    """A model that returns a name."""
    return models.mlp(params, x), {"name": "mlp"}


FINE = {"mean": jnp.zeros(3), "inputs": jnp.zeros((5, 3))}
AUX: dict[str, tuple[Any, Any, str]] = {
    "empty": (with_aux, {}, r"aux has another structure .*has_aux=True, aux=\.\.\.\)"),
    "scalar": (with_aux, 0.0, r"aux has another structure"),
    "text": (with_aux, "statistics", r"aux has another structure"),
    "shape": (with_aux, FINE | {"inputs": jnp.zeros((7, 3))}, r"'inputs'\].*\[7,3\].*\[5,3\]"),
    "kind": (with_aux, FINE | {"mean": jnp.zeros(3, int)}, r"'mean'\].* is int.*returns float"),
    "name": (named, {"name": "x"}, r"aux must be a tree of arrays, got str"),
}


@pytest.mark.parametrize("name", AUX)
def test_aux_that_does_not_fit(name: str) -> None:
    apply_fn, aux, message = AUX[name]
    tx = gt.implicit(SGD, apply_fn, models.cross_entropy, has_aux=True, aux=aux)
    params = models.mlp_params()
    with pytest.raises(ValueError, match=message):
        tx.update(None, tx.init(params), params, batch=batch())  # type: ignore[arg-type, call-arg]


@pytest.mark.slow
def test_aux_in_another_precision_fits() -> None:
    def apply_fn(params: Any, x: jax.Array) -> Any:
        return models.mlp(params, x), x.mean(0)

    tx = models.implicit(
        SGD, apply_fn, models.cross_entropy, has_aux=True, aux=jnp.zeros(3, jnp.bfloat16)
    )
    params = models.mlp_params()
    _, state = tx.update(None, tx.init(params), params, batch=batch())
    assert state.aux.dtype == jnp.bfloat16 and state.aux.any()


def test_a_forgotten_has_aux() -> None:
    tx = gt.implicit(SGD, with_aux, models.cross_entropy)
    with pytest.raises(ValueError, match=r"a tuple of 2\. If apply_fn.*has_aux=True, aux=\.\.\."):
        try_update(tx, models.mlp_params())


class Normed(nnx.Module):
    """A module with statistics."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden, self.out = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(jnp.tanh(self.norm(self.hidden(x))))


@pytest.mark.slow
@pytest.mark.parametrize("copy", [True, False])
@jax.numpy_rank_promotion("allow")
def test_nnx_statistics(copy: bool, float32: None) -> None:
    """As aux they work with the call that the message shows."""
    graph, params, rest = nnx.split(Normed(nnx.Rngs(0)), nnx.Param, ...)

    def apply_fn(params: Any, inputs: Any) -> Any:
        x, statistics = inputs
        model = nnx.merge(graph, params, statistics, copy=copy)
        return model(x), nnx.state(model, nnx.BatchStat)

    tx = models.implicit(SGD, apply_fn, models.cross_entropy, has_aux=True, aux=rest)
    x, y = batch()
    state = tx.init(params)
    if copy:
        _, state = tx.update(None, state, params, batch=((x, state.aux), y))
        assert jnp.any(state.aux["norm"]["mean"].get_value())
    else:
        with pytest.raises(ValueError, match=r"merge\(graph, params, rest, copy=True\)"):
            tx.update(None, state, params, batch=((x, rest), y))


FOREIGN: dict[str, Callable[[Game], Any]] = {
    "optax": lambda game: ADAM.init(game.params()),
    "the other game": lambda game: next(
        other.build(SGD).init(other.params()) for other in GAMES if other is not game
    ),
    "none": lambda game: None,
    "a chain": lambda game: optax.chain(game.build(SGD)).init(game.params()),
}


@each_game
@pytest.mark.parametrize("name", FOREIGN)
def test_states_of_others(name: str, game: Game) -> None:
    tx, params = game.build(SGD), game.params()
    with pytest.raises(ValueError, match=rf"{game.name}: state must be the .*tx\.init\(params\)"):
        tx.update(None, FOREIGN[name](game), params, batch=batch())


@each_game
def test_states_of_other_bases(game: Game) -> None:
    state = game.build(SGD).init(game.params())
    for base in (ADAM, optax.sgd(0.1, momentum=0.9)):
        with pytest.raises(ValueError, match=r"the state comes from another optimizer\. Pass"):
            game.build(base).update(None, state, game.params(), batch=batch())


def test_states_of_other_parts() -> None:
    """The state of another curvature; those of all weightings are alike."""
    message = r"the state comes from another optimizer\. Pass what tx\.init\(params\)"
    params = GAMES[1].params()
    loss = models.cross_entropy
    state = gt.sgd(NET, loss, 0.1).init(params)
    with pytest.raises(ValueError, match=message):
        gt.adam(NET, loss, 0.1).update(None, state, params, batch=batch())  # type: ignore[call-arg]


LEAVES: dict[str, tuple[Any, str]] = {
    "float": (1.0, r"got the Python number 1\.0 at .*jax\.tree\.map\(jnp\.asarray, params\)"),
    "integer": (1, r"got the Python number 1 at"),
    "function": (jnp.tanh, r"got \w+ at .*equinox\.partition"),
    "text": ("relu", r"got str at .*close over it in apply_fn"),
}


@each_game
@pytest.mark.parametrize("name", LEAVES)
@pytest.mark.parametrize("when", ["init", "update"])
def test_leaves_that_are_no_arrays(name: str, when: str, game: Game) -> None:
    leaf, message = LEAVES[name]
    tx, params = game.build(SGD), game.params()
    layer = next(iter(params))
    wrong = params | {layer: dict.fromkeys(params[layer], leaf)}
    state = tx.init(params)
    with pytest.raises(ValueError, match=rf"{game.name}: parameters must be arrays, {message}"):
        if when == "init":
            tx.init(wrong)
        else:
            tx.update(None, state, wrong, batch=batch())


@each_game
def test_lookahead_params(game: Game) -> None:
    pair = optax.LookaheadParams.init_synced(game.params())
    with pytest.raises(ValueError, match=r"LookaheadParams.*Pass params\.fast.*incremental_update"):
        game.build(SGD).init(pair)


@each_game
def test_updates_that_are_no_gradient(game: Game) -> None:
    params = game.params()
    wrong_shape = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape)), params)
    for updates in (0.0, {}, wrong_shape):
        with pytest.raises(ValueError, match=r"updates must be the gradient of a running cost"):
            try_update(game.build(SGD), params, updates)
    try_update(game.build(SGD), params, zeros(params))
