"""The prediction from blocks, against whole-network predictions and autodiff of weighted losses."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.core.optax_base import as_optax_base
from gtddp_jax.implicit.base_on_blocks import is_entrywise
from gtddp_jax.implicit.base_optimizer import BaseOptimizer
from gtddp_jax.implicit.block_influence import draw_blocks
from gtddp_jax.implicit.linearized_losses import LinearizedLosses
from gtddp_jax.implicit.read_losses import ReadLosses
from gtddp_jax.implicit.weighting import sketch
from gtddp_jax.terminal import ExactLoss
from gtddp_jax.tracing import leaf_blocks
from gtddp_jax.tracing.cuts import Partition
from gtddp_jax.tracing.leaf_blocks import plan_leaves
from tests.default_run import quick_cases
from tests.implicit.read_models import BATCH, MODELS, ReadModel, read_model

LABELS = np.array([0, 1, 2, 0, 1, 1])
WEIGHTS = np.linspace(0.2, 1.7, BATCH)
MOMENTUM = optax.sgd(0.3, momentum=0.9, nesterov=True)
SEPARATE = ("opaque_kernel", "masked_in_a_loop", "kernel_in_a_loop")
"""Models whose samples do not influence each other, although adjoints are not used again."""
CLIPPED = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.05))


@pytest.fixture(autouse=True)
def blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny layers are cut too, and models may promote ranks, as those of users do."""
    monkeypatch.setattr(leaf_blocks, "SMALL_READ", 0)
    monkeypatch.setattr(leaf_blocks, "SMALLEST_BLOCK", 1)
    with jax.numpy_rank_promotion("allow"):
        yield


def loss(outputs: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, LABELS)


def linearized(model: ReadModel, kind: type[LinearizedLosses]) -> Any:
    return kind(
        lambda params: (model.apply(params, model.inputs), None),
        loss,
        model.params,
        ExactLoss(max_shift=None),
        None,
    )


def base_after_steps(base: optax.GradientTransformation, params: Any) -> BaseOptimizer:
    """The base with a state in which nothing is zero."""
    checked = as_optax_base("implicit", base)
    state = checked.init(params)
    for scale in (1.0, -0.4):
        gradient = jax.tree.map(lambda leaf, scale=scale: scale * jnp.cos(7 * leaf), params)
        _, state = checked.compute_update(gradient, state, params, {})
    running = jax.tree.map(lambda leaf: 0.01 * leaf, params)
    return BaseOptimizer(checked, state, params, running, jnp.ones(()), {}, True)


@pytest.mark.parametrize("name", quick_cases(sorted(MODELS), "dense", "batch_norm", "branches"))
def test_weighted_gradient_is_that_of_autodiff(name: str) -> None:
    model = read_model(name)
    losses = linearized(model, ReadLosses)
    assert losses.adjoint_pass is not None
    assert losses.adjoint_pass.read_fn.reuses_adjoints == model.reuses

    def weighted_mean(params: Any) -> jax.Array:
        return (WEIGHTS * loss(model.apply(params, model.inputs))).mean()

    expected = jax.grad(weighted_mean)(model.params)
    chex.assert_trees_all_close(
        losses.weighted_gradient(jnp.asarray(WEIGHTS)), expected, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize(
    ("name", "share"),
    quick_cases(
        [*((name, 0.4) for name in sorted(MODELS)), ("dense", 1.0)],
        *(("dense", 0.4), ("few_channels", 0.4), ("batch_norm", 0.4)),
    ),
)
def test_mean_over_all_draws_is_the_whole_network(name: str, share: float) -> None:
    model = read_model(name)
    losses = linearized(model, ReadLosses)
    adjoints = losses.propagate()
    plans = plan_leaves(adjoints.read_fn, share)
    names = sorted(model.params)
    taking_part = names if model.takes_part is None else sorted(model.takes_part)
    assert [names[plan.leaf] for plan in plans] == taking_part
    if not plans:
        return
    base = base_after_steps(MOMENTUM, model.params)
    counts = [plan.draws for plan in plans]
    # The same number for all leaves: each leaf sees all of its blocks and bands equally often.
    draws = math.lcm(*counts)
    assert share == 1 or draws > 1

    def estimate(number: jax.Array) -> Any:
        blocks = draw_blocks(plans, jnp.full(len(plans), number, jnp.uint32))
        return sketch.estimate_influence(losses, adjoints, base, blocks)

    s0, n = jax.tree.map(
        lambda values: values.mean(0), jax.lax.map(estimate, jnp.arange(draws, dtype=jnp.uint32))
    )
    q, jvp_fn = linearized(model, LinearizedLosses).linearize_gradient()

    def loss_change(change: Any) -> jax.Array:
        """By the parameters that take part alone."""
        return jvp_fn({key: change[key] * (key in taking_part) for key in change})

    momentum_step, response = base.split_update(q)
    want_s0, want_n = loss_change(momentum_step), -loss_change(response)
    # Below a coupling the estimate is another quantity, but its sum over samples is the same.
    if model.reuses or name in SEPARATE:
        chex.assert_trees_all_close((s0, n), (want_s0, want_n), rtol=1e-11, atol=1e-13)
    chex.assert_trees_all_close(
        (s0.sum(), n.sum()), (want_s0.sum(), want_n.sum()), rtol=1e-11, atol=1e-13
    )


def test_positions_make_up_for_blocks_larger_than_the_share() -> None:
    model = read_model("few_channels")
    plans = plan_leaves(linearized(model, ReadLosses).propagate().read_fn, 0.4)
    bands = {name: plans[leaf].bands for leaf, name in enumerate(sorted(model.params))}
    assert {name: of and (of.output_axis, of.partition) for name, of in bands.items()} == {
        "holes": (1, Partition(6, 3)),
        "bias": (1, Partition(6, 3)),
        "mix": (2, Partition(6, 5)),  # one of two columns and five of six rows
        "row": (3, Partition(6, 5)),  # one of two input channels
        "head": None,  # no positions
    }


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (MOMENTUM, True),
        (optax.nadamw(0.05), True),
        (optax.MultiSteps(optax.adam(0.05), 2), True),
        (CLIPPED, False),
        (optax.lamb(0.05), False),
    ],
    ids=["momentum", "nadamw", "accumulation", "clipped", "lamb"],
)
def test_base_on_blocks_gives_blocks_of_the_whole_update(
    base: Any, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_model("dense")
    losses = linearized(model, ReadLosses)
    adjoints = losses.propagate()
    plans = plan_leaves(adjoints.read_fn, 0.4)
    blocks = draw_blocks(plans, jnp.arange(len(plans), dtype=jnp.uint32))
    fixed = base_after_steps(base, model.params)
    assert is_entrywise(fixed) == expected
    found = sketch.estimate_influence(losses, adjoints, fixed, blocks)
    monkeypatch.setattr(sketch, "is_entrywise", lambda base: False)
    whole = sketch.estimate_influence(losses, adjoints, fixed, blocks)
    chex.assert_trees_all_close(found, whole, rtol=1e-11, atol=1e-14)


def test_state_of_another_form_takes_the_whole_update() -> None:
    def init(params: Any) -> Any:
        return {"flat": jnp.ones(sum(leaf.size for leaf in jax.tree.leaves(params)))}

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda leaf: -0.1 * leaf, updates), state

    model = read_model("mapped")
    seen = weights_of(model, optax.GradientTransformation(init, update), gt.weighting.Sketch(1.0))
    expected = weights_of(model, optax.sgd(0.1), gt.weighting.Sketch(1.0))
    chex.assert_trees_all_close(seen, expected, rtol=1e-12)


def weights_of(model: ReadModel, base: Any, weighting: Any, count: int = 1) -> list[jax.Array]:
    """The weights of some steps, all from the same parameters."""
    tx: Any = gt.implicit(base, weighting=weighting)
    seen = []

    @jax.jit
    def step(state: Any) -> Any:
        observed: list[jax.Array] = []
        _, state = tx.update(
            None,
            state,
            model.params,
            losses=lambda params: gt.Losses(model.apply(params, model.inputs), loss),
            observe=observed.append,
        )
        return observed[0][0], state

    state = tx.init(model.params)
    for _ in range(count):
        weights, state = step(state)
        assert not state.report.skipped
        seen.append(weights)
    return seen


def test_the_whole_share_is_full() -> None:
    sketched = weights_of(read_model("dense"), MOMENTUM, gt.weighting.Sketch(1.0), 3)
    expected = weights_of(read_model("dense"), MOMENTUM, "full", 3)
    chex.assert_trees_all_close(sketched, expected, rtol=1e-10)
    assert not jnp.allclose(expected[2], 1.0, atol=0.05)


def test_blocks_are_new_in_every_step_and_the_same_in_every_run() -> None:
    # Without a learning rate nothing else changes between steps.
    model, base = read_model("dense"), optax.sgd(0.3)
    first, second = (weights_of(model, base, gt.weighting.Sketch(0.4), 3) for _ in range(2))
    chex.assert_trees_all_equal(first, second)
    for one, other in itertools.combinations(first, 2):
        assert not jnp.allclose(one, other)


def test_without_a_readable_parameter_the_whole_network_predicts() -> None:
    model = read_model("branches")
    sketched = weights_of(model, MOMENTUM, gt.weighting.Sketch(0.4), 2)
    chex.assert_trees_all_close(sketched, weights_of(model, MOMENTUM, "full", 2), rtol=1e-10)


@pytest.mark.slow
def test_single_sample_is_predicted_by_the_whole_network() -> None:
    model = read_model("dense")

    def weights(weighting: Any) -> Any:
        tx: Any = gt.implicit(MOMENTUM, weighting=weighting)
        look: list[jax.Array] = []
        tx.update(
            None,
            tx.init(model.params),
            model.params,
            losses=lambda params: gt.Losses(
                model.apply(params, model.inputs[:1]), lambda outputs: jnp.square(outputs).sum(1)
            ),
            observe=look.append,
        )
        return look[0]

    sketched = weights(gt.weighting.Sketch(0.4, factors="implicit"))
    chex.assert_trees_all_close(sketched, weights(gt.weighting.Full("implicit")), rtol=1e-12)


@pytest.mark.slow
def test_tokens_are_samples() -> None:
    """Losses [B, T]: positions that do not interact are the same as rows of a longer batch."""
    model = read_model("mapped")
    inputs = jax.random.normal(jax.random.key(3), (3, 2, 4))

    def weights(inputs: jax.Array) -> jax.Array:
        tx: Any = gt.implicit(MOMENTUM, weighting=gt.weighting.Sketch(0.4))
        look: list[jax.Array] = []
        tx.update(
            None,
            tx.init(model.params),
            model.params,
            losses=lambda params: gt.Losses(
                jnp.tanh(inputs @ params["a"] + params["b"]) @ params["head"],
                lambda outputs: jnp.square(outputs - 1).sum(-1),
            ),
            observe=look.append,
        )
        return look[0].ravel()

    chex.assert_trees_all_close(weights(inputs), weights(inputs.reshape(6, 4)), rtol=1e-12)


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.5}, {"factors": "other"}], ids=str)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\], and factors one of"):
        gt.weighting.Sketch(**options)
