"""A function of losses gives the step of the short form, and that of optax without a game."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.losses import problems
from tests.losses.problems import MASK, NET, RATE, ROWS, SEQUENCES, Batch

Tree = Any
TINY = 1e-14


@functools.cache
def games() -> dict[str, tuple[Any, Any, Any, Tree]]:
    """By name: the game with a function of losses, the short form, `apply`, the parameters."""
    base, loss = optax.adam(RATE), problems.cross_entropy
    net, apply = problems.net_params(), problems.apply_net
    model = problems.LinenModel()
    traced = gt.from_flax(model, ROWS.x)
    variables: Any = model.init(jax.random.key(0), ROWS.x)

    def apply_traced(params: Tree, x: jax.Array) -> Any:
        return traced.apply(params, x, train=True)

    return {
        **{
            name: (
                gt.implicit(base, weighting=name),
                gt.implicit(base, apply, loss, weighting=name),
                apply,
                net,
            )
            for name in ("sketch", "full")
        },
        "strength 0": (
            gt.implicit(base, strength=0.0),
            gt.implicit(base, apply, loss, strength=0.0),
            apply,
            net,
        ),
        "gtddp": (gt.adam(NET, None, RATE), gt.adam(NET, loss, RATE), apply, net),
        "gtddp, traced": (
            gt.ekfac(traced, None, RATE),
            gt.ekfac(traced, loss, RATE),
            apply_traced,
            variables["params"],
        ),
    }


NAMES = ("sketch", "full", "strength 0", "gtddp", "gtddp, traced")


@pytest.mark.parametrize("name", quick_cases(NAMES))
def test_equals_the_short_form(name: str) -> None:
    """With a regularizer, whose gradient the short form receives as `updates`."""
    tx, short, apply, params = games()[name]
    new_params, output = problems.after_step(tx, problems.losses_of(apply), params, ROWS)

    @jax.jit
    def update(params: Tree) -> tuple[Tree, Tree]:
        state = short.init(params)
        return short.update(jax.grad(problems.l2)(params), state, params, batch=(ROWS.x, ROWS.y))

    updates, state = update(params)
    chex.assert_trees_all_close(new_params, optax.apply_updates(params, updates), rtol=1e-12)
    logits = apply(params, ROWS.x)
    chex.assert_trees_all_close(output.aux["logits"], logits, rtol=1e-12)
    expected = problems.cross_entropy(logits, ROWS.y).mean() + problems.l2(params)
    assert abs(output.loss - expected) < TINY
    assert abs(output.report.loss - expected) < 1e-6
    spread = output.report.sample_weight_std
    chex.assert_trees_all_close(spread, state.report.sample_weight_std)
    assert (name == "strength 0") == (spread.max() == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_cases(NAMES))
def test_masked_samples_count_nowhere(name: str) -> None:
    """Even where their losses and the derivatives are not finite."""
    tx, _, apply, params = games()[name]
    losses = problems.losses_of(apply)
    broken = ROWS._replace(x=jnp.where(MASK[:, None], ROWS.x, 1e3), mask=MASK)

    def with_infinite_losses(params: Tree, batch: Batch) -> gt.Losses:
        result = losses(params, batch)

        def undefined(value: jax.Array) -> jax.Array:
            # The derivative of a root is infinite at 0.
            root = jnp.sqrt(jnp.where(jnp.asarray(batch.mask), 1.0, 0 * value))
            return jnp.log(-value) + root

        def per_sample(logits: jax.Array) -> jax.Array:
            value = result.per_sample(logits)
            return value if batch.mask is None else jnp.where(batch.mask, value, undefined(value))

        return gt.Losses(logits_of(result), per_sample, result.mask, result.regularizer)

    masked, output = problems.after_step(tx, with_infinite_losses, params, broken)
    alone, expected = problems.after_step(tx, losses, params, ROWS.rows(jnp.flatnonzero(MASK)))
    chex.assert_trees_all_close(masked, alone, rtol=1e-9, atol=1e-12)
    assert abs(output.loss - expected.loss) < TINY
    chex.assert_trees_all_close(
        output.report.sample_weight_std, expected.report.sample_weight_std, rtol=1e-5
    )


def logits_of(losses: gt.Losses) -> Any:
    return losses.outputs


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_cases(["full", "sketch"]))
def test_every_token_is_a_sample(name: str) -> None:
    """Tokens [B, T] of a model without attention are B T samples."""
    tx, _, _, params = games()[name]
    mask = jnp.arange(problems.SAMPLES * problems.TOKENS).reshape(SEQUENCES.y.shape) % 3 > 0

    def apply(params: Tree, x: jax.Array) -> jax.Array:
        rows = problems.apply_net(params, x.reshape(-1, 3))
        return rows.reshape(*x.shape[:-1], 3)

    losses = problems.losses_of(apply)
    tokens, output = problems.after_step(tx, losses, params, SEQUENCES._replace(mask=mask))
    flat = Batch(SEQUENCES.x.reshape(-1, 3), SEQUENCES.y.reshape(-1)).rows(
        jnp.flatnonzero(mask.reshape(-1))
    )
    rows, expected = problems.after_step(tx, losses, params, flat)
    chex.assert_trees_all_close(tokens, rows, rtol=1e-9, atol=1e-12)
    assert abs(output.loss - expected.loss) < TINY


def test_rows_of_tokens_in_the_sequential_game() -> None:
    """A sample is a row there: losses [B, T] are those of their means, weighted by the mask."""
    net, params = NET, problems.net_params()
    targets = jnp.asarray(SEQUENCES.x[:, :3, 0])
    mask = jnp.arange(targets.size).reshape(targets.shape) % 3 > 0

    def tokens(params: Tree) -> gt.Losses:
        outputs = net.apply(params, ROWS.x, train=True)
        return gt.Losses(outputs, lambda outputs: jnp.cosh(outputs - targets), mask)

    def rows(params: Tree) -> gt.Losses:
        outputs = net.apply(params, ROWS.x, train=True)

        def per_sample(outputs: jax.Array) -> jax.Array:
            return (jnp.cosh(outputs - targets) * mask).sum(1) * len(mask) / mask.sum()

        return gt.Losses(outputs, per_sample)

    tx = gt.sgd(net, None, RATE)
    chex.assert_trees_all_close(
        problems.after_step(tx, tokens, params)[0],
        problems.after_step(tx, rows, params)[0],
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.adam(RATE),
        lambda: optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(RATE, nesterov=True)),
        lambda: optax.MultiSteps(optax.sgd(RATE), 1),
        optax.lbfgs,
    ],
    ids=["adam", "chain", "MultiSteps", "lbfgs"],
)
def test_optax_without_a_game(make: Any) -> None:
    """The same step as in a loop of one's own, with `value_fn` for a line search."""
    tx, params = make(), problems.net_params()
    new_params, output = problems.after_step(
        tx, problems.losses_of(problems.apply_net), params, ROWS
    )

    def loss_fn(params: Tree) -> jax.Array:
        logits = NET.apply(params, ROWS.x)
        return problems.cross_entropy(logits, ROWS.y).mean() + problems.l2(params)

    @jax.jit
    def update(params: Tree) -> Tree:
        value, gradient = jax.value_and_grad(loss_fn)(params)
        arguments = {"value": value, "grad": gradient, "value_fn": loss_fn}
        is_search = make is optax.lbfgs
        updates, _ = tx.update(
            gradient, tx.init(params), params, **(arguments if is_search else {})
        )
        return optax.apply_updates(params, updates)

    chex.assert_trees_all_close(new_params, update(params), rtol=1e-12)
    assert output.report is None
    assert output.aux["correct"] == (NET.apply(params, ROWS.x).argmax(-1) == ROWS.y).sum()


def test_a_game_in_a_chain() -> None:
    """What stands before it reaches the base; its report and aux come back."""
    params = problems.net_params()
    losses = problems.losses_of(problems.apply_net, regularized=False)
    decay = optax.add_decayed_weights(0.02)
    chained, output = problems.after_step(
        optax.chain(decay, gt.implicit(optax.sgd(RATE))), losses, params, ROWS
    )
    regularized = problems.losses_of(problems.apply_net)
    alone, expected = problems.after_step(gt.implicit(optax.sgd(RATE)), regularized, params, ROWS)
    chex.assert_trees_all_close(chained, alone, rtol=1e-12)
    assert abs(output.loss + problems.l2(params) - expected.loss) < TINY
    assert output.report is not None


def test_value_and_grad_is_bitwise_the_plain_one() -> None:
    params = problems.net_params()
    losses = problems.losses_of(problems.apply_net)

    def loss_fn(params: Tree) -> tuple[jax.Array, Any]:
        logits = NET.apply(params, ROWS.x)
        return problems.cross_entropy(logits, ROWS.y).mean() + problems.l2(params), logits

    expected = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
    (loss, aux), gradient = jax.jit(gt.value_and_grad(losses))(params, ROWS)
    chex.assert_trees_all_equal(((loss, aux["logits"]), gradient), expected)


@pytest.mark.slow
def test_batch_without_a_counted_sample() -> None:
    """Only the regularizer moves the parameters."""
    params, batch = problems.net_params(), ROWS._replace(mask=jnp.zeros(problems.SAMPLES))
    losses = problems.losses_of(problems.apply_net)
    for tx in (optax.sgd(RATE), gt.implicit(optax.sgd(RATE)), gt.sgd(NET, None, RATE)):
        new_params, output = problems.after_step(tx, losses, params, batch)
        expected = jax.tree.map(lambda param: (1 - RATE * 0.02) * param, params)
        chex.assert_trees_all_close(new_params, expected, rtol=1e-12)
        assert abs(output.loss - problems.l2(params)) < TINY


@pytest.mark.slow
def test_a_constant_regularizer_is_reported() -> None:
    """It changes the loss alone, in every game and without one."""
    params = problems.net_params()
    plain = problems.losses_of(problems.apply_net, regularized=False)

    def shifted(params: Tree, batch: Batch) -> gt.Losses:
        return dataclasses.replace(plain(params, batch), regularizer=2.0)

    for tx in (optax.sgd(RATE), gt.implicit(optax.sgd(RATE)), gt.sgd(NET, None, RATE)):
        new_params, output = problems.after_step(tx, shifted, params, ROWS)
        expected, without = problems.after_step(tx, plain, params, ROWS)
        chex.assert_trees_all_equal(new_params, expected)
        assert abs(output.loss - without.loss - 2) < TINY


def test_a_step_donates_and_keeps_no_aux() -> None:
    params = problems.net_params()
    tx = gt.implicit(optax.adam(RATE))
    step = gt.make_step(tx, problems.losses_of(problems.apply_net))
    state = tx.init(params)
    new_params, new_state, _ = step(params, state, ROWS)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, tx.init(new_params))
