"""Functions of losses that a game cannot play are refused, with words that say what to do."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gtddp_jax as gt
from tests.losses import problems
from tests.losses.problems import NET, RATE, ROWS, cross_entropy

Tree = Any
LossesOfParams = Callable[[Tree], Any]


def trace(tx: Any, losses: LossesOfParams) -> None:
    """A step is only traced, where all refusals are raised."""
    params = jax.eval_shape(problems.net_params)

    def step(params: Tree) -> Tree:
        return tx.update(None, tx.init(params), params, losses=losses)[0]

    jax.eval_shape(step, params)


def implicit() -> Any:
    return gt.implicit(optax.sgd(RATE), weighting="full")


def sequential() -> Any:
    return gt.sgd(NET, None, RATE)


def with_logits(make: Callable[[Any, Tree], Any]) -> LossesOfParams:
    return lambda params: make(NET.apply(params, ROWS.x, train=True), params)


def entropy(logits: jax.Array) -> jax.Array:
    return cross_entropy(logits, ROWS.y)


def first_weight(params: Tree) -> jax.Array:
    return jax.tree.leaves(params)[0].ravel()[0]


BOTH: dict[str, tuple[LossesOfParams, str]] = {
    "no Losses": (
        with_logits(lambda logits, _: entropy(logits).mean()),
        r"must return gtddp_jax\.Losses, got .*Return gtddp_jax\.Losses\(outputs=logits",
    ),
    "a mean": (
        with_logits(lambda logits, _: gt.Losses(logits, lambda logits: entropy(logits).mean())),
        r"per_sample returned float64\[\].*without a mean over the batch",
    ),
    "integers": (
        with_logits(lambda logits, _: gt.Losses(logits, lambda logits: logits.argmax(-1))),
        r"per_sample returned int.*real floating-point",
    ),
    "a mask of another shape": (
        with_logits(lambda logits, _: gt.Losses(logits, entropy, mask=jnp.ones(2))),
        r"mask has shape \(2,\) .* Give the mask one entry per loss",
    ),
    "a regularizer per sample": (
        with_logits(lambda logits, _: gt.Losses(logits, entropy, regularizer=jnp.ones(6))),
        r"regularizer must be a scalar .* got shape \(6,\)",
    ),
    "parameters in per_sample": (
        with_logits(
            lambda logits, params: gt.Losses(
                logits, lambda logits: entropy(logits) * first_weight(params)
            )
        ),
        "uses a value that was computed from the parameters",
    ),
    "all pairs": (
        with_logits(lambda logits, _: gt.Losses(logits[:, :1], squares_of_all_pairs())),
        "broadcasts outputs against targets",
    ),
}


def squares_of_all_pairs() -> Callable[[jax.Array], jax.Array]:
    targets = jnp.asarray(ROWS.x[:, 0])

    return lambda outputs: jnp.square(outputs - targets).mean(-1)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("make", [implicit, sequential])
def test_both_games(make: Any, name: str) -> None:
    losses, message = BOTH[name]
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match=message):
        trace(make(), losses)


def pair_of_losses(logits: jax.Array) -> Any:
    return entropy(logits), entropy(logits)


IMPLICIT: dict[str, tuple[LossesOfParams, str]] = {
    "a tree of losses": (
        with_logits(lambda logits, _: gt.Losses(logits, pair_of_losses)),
        "tree of 2 arrays.*add the losses of a sample up",
    ),
    "parameters in the mask": (
        with_logits(
            lambda logits, params: gt.Losses(
                logits, entropy, mask=jnp.ones(6) * first_weight(params)
            )
        ),
        "mask uses a value that was computed from the parameters",
    ),
    "outputs of the batch": (
        with_logits(
            lambda logits, _: gt.Losses(
                (logits, logits.mean()), lambda outputs: entropy(outputs[0])
            )
        ),
        r"outputs\[1\] has shape \(\).*belongs into regularizer",
    ),
    "outputs of rows for losses of tokens": (
        with_logits(lambda logits, _: gt.Losses(logits[:, 0], lambda x: jnp.outer(x, x) ** 3)),
        r"outputs has shape \(6,\) and the losses have shape \(6, 6\)",
    ),
}


@pytest.mark.parametrize("name", IMPLICIT)
def test_the_implicit_game(name: str) -> None:
    losses, message = IMPLICIT[name]
    with pytest.raises(ValueError, match=message):
        trace(implicit(), losses)


@pytest.mark.parametrize("name", [*BOTH, "outputs of the batch"])
def test_without_a_game(name: str) -> None:
    """Switching the game off hides no mistake; but then parameters may enter anywhere."""
    losses, message = (BOTH | IMPLICIT)[name]
    refused = name != "parameters in per_sample"
    gradient: Any = gt.value_and_grad(losses)
    with (
        jax.numpy_rank_promotion("allow"),
        pytest.raises(ValueError, match=message) if refused else contextlib.nullcontext(),
    ):
        jax.eval_shape(gradient, jax.eval_shape(problems.net_params))


def apply_in_eval(params: Tree) -> gt.Losses:
    return gt.Losses(NET.apply(params, ROWS.x), entropy)


def apply_twice(params: Tree) -> gt.Losses:
    first, second = (problems.apply_net(params, ROWS.x) for _ in range(2))
    return gt.Losses(first + second, entropy)


def apply_elsewhere(params: Tree) -> gt.Losses:
    halved = jax.tree.map(lambda param: param / 2, params)
    return gt.Losses(NET.apply(halved, ROWS.x, train=True), entropy)


SEQUENTIAL: dict[str, tuple[LossesOfParams, str]] = {
    "no call": (lambda params: gt.Losses(ROWS.x, entropy), "it did not call it"),
    "a call in evaluation": (apply_in_eval, "it was called with train=None"),
    "two calls": (apply_twice, "it was called 2 times"),
    "other parameters": (apply_elsewhere, "with other parameters"),
    "a regularizer of the outputs": (
        with_logits(lambda logits, _: gt.Losses(logits, entropy, regularizer=logits.sum())),
        "regularizer of gtddp_jax.Losses depends on the outputs",
    ),
    "parameters in the outputs": (
        with_logits(lambda logits, params: gt.Losses(logits * first_weight(params), entropy)),
        "outputs or per_sample uses a value that was computed from the parameters",
    ),
}


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_sequential_game(name: str) -> None:
    losses, message = SEQUENTIAL[name]
    with pytest.raises(ValueError, match=message):
        trace(sequential(), losses)


@pytest.mark.parametrize("name", ["implicit", "gtddp"])
def test_two_answers_or_none(name: str) -> None:
    bare = implicit() if name == "implicit" else sequential()
    full = (
        gt.implicit(optax.sgd(RATE), problems.apply_net, cross_entropy)
        if name == "implicit"
        else gt.sgd(NET, cross_entropy, RATE)
    )
    losses, batch = problems.losses_of(problems.apply_net), (ROWS.x, ROWS.y)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (full, {"losses": losses, "batch": batch}, "and update received losses"),
        (bare, {"batch": batch}, "update received a batch"),
        (bare, {}, "update was called without losses"),
        (bare, {"losses": 3.0}, "losses must be a function of the parameters, got float"),
    ]
    params = problems.net_params()
    for tx, arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            tx.update(None, tx.init(params), params, **arguments)


def test_keys_beside_losses() -> None:
    params, tx = problems.net_params(), sequential()
    with pytest.raises(ValueError, match="received both losses and rngs"):
        tx.update(None, tx.init(params), params, losses=apply_twice, rngs={})
