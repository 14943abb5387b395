"""`print` of a transformation, a state and a report: one readable line, whatever they hold."""

import copy
import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gtddp_jax as gt
from gtddp_jax.core.one_line import LINE_LIMIT, call_line

NET = gt.Network([nn.Dense(3), jnp.tanh, nn.Dense(3)])
X = jnp.sin(jnp.arange(12.0, dtype=jnp.float32).reshape(4, 3))
LABELS = jnp.arange(4) % 3
LOSS = optax.softmax_cross_entropy_with_integer_labels
NETWORK = "Network(2 stages, 2 players)"
ADAM = "chain(scale_by_adam, scale)"
GAME = "equilibrium='feedback', terminal=ExactLoss(bounds=(0.02, 10)), rollout='linear')"
SHORT, SHORTER = GAME.replace("'linear'", "..."), GAME.replace("linear'", "lin...")
LINES: list[tuple[str, Any]] = [
    (
        f"implicit({ADAM}, weighting=Sketch(), bounds=(0, 10), strength=1)",
        lambda: gt.implicit(optax.adam(1e-3), NET, LOSS),
    ),
    (
        f"implicit(MultiSteps({ADAM}), weighting=Full(), bounds=None, strength=0.5)",
        lambda: gt.implicit(
            optax.MultiSteps(optax.adam(1e-3), 4),
            *(NET, LOSS),
            weighting="full",
            bounds=None,
            strength=0.5,
        ),
    ),
    (
        f"implicit(chain(clip, masked({ADAM})), weighting=Sketch(), bounds=(0, 10), strength=1)",
        lambda: gt.implicit(
            optax.chain(optax.clip(1.0), optax.masked(optax.adam(1e-3), lambda params: params)),
            NET,
            LOSS,
        ),
    ),
    (
        "implicit(inject_hyperparams(adam), weighting=Sketch(), bounds=(0, 10), strength=1)",
        lambda: gt.implicit(optax.inject_hyperparams(optax.adam)(1e-3), NET, LOSS),
    ),
    (
        f"gtddp({NETWORK}, Adam(learning_rate=0.001), {GAME}",
        lambda: gt.adam(NET, LOSS, 1e-3),
    ),
    (
        f"gtddp({NETWORK}, Adam(learning_rate=lambda, weight_decay=0.0001), {SHORT}",
        lambda: gt.adamw(NET, LOSS, lambda step: 0.1),
    ),
    (
        f"gtddp({NETWORK}, RMSProp(learning_rate=0.1), {GAME}",
        lambda: gt.rmsprop(NET, LOSS, jnp.array(0.1)),
    ),
    (
        f"gtddp({NETWORK}, FromOptax(base={ADAM}), {SHORTER}",
        lambda: gt.gtddp(NET, LOSS, gt.curvature.FromOptax(optax.adam(1e-3))),
    ),
    (
        f"scale_by_gt_ekfac({NETWORK}, damping=0.01, cooperative='rescale')",
        lambda: gt.scale_by_gt_ekfac(NET, LOSS),
    ),
    (
        f"gtddp({NETWORK}, SGD(learning_rate=cosine_decay_schedule, momentum=0.9), "
        "equilibrium='open_loop', terminal=ExactLoss(bounds=(0.02, 10)), ...)",
        lambda: gt.sgd(
            NET, LOSS, optax.cosine_decay_schedule(0.1, 10), 0.9, equilibrium="open_loop"
        ),
    ),
]
LINES += [
    (
        "joint(['a', 'b'], damping=RelativeDamping(), momentum=0.9, metric=AdamMetric(b2=0.99))",
        lambda: gt.joint(
            {"b": jnp.dot, "a": jnp.add}, momentum=0.9, metric=gt.metrics.AdamMetric(0.99)
        ),
    ),
    (
        "joint('losses', damping=ConstantDamping(rate=0.1), momentum=0, metric=IdentityMetric())",
        lambda: gt.joint(damping=0.1),
    ),
]
GAMES = {
    "implicit": lambda: gt.implicit(optax.sgd(0.1, 0.9), NET, LOSS, weighting="full"),
    "sequential": lambda: gt.sgd(NET, LOSS, 0.1, rollout="nonlinear"),
}


@pytest.mark.parametrize(("line", "make"), LINES, ids=range(len(LINES)))
def test_a_transformation_says_what_it_is(line: str, make: Any) -> None:
    assert str(make()) == repr(copy.copy(make())) == line
    assert len(line) <= LINE_LIMIT


def test_long_lines_are_cut() -> None:
    line = call_line("call", **{f"option{number}": number for number in range(99)})
    assert len(line) == LINE_LIMIT and line.endswith("...)")


def test_a_transformation_is_one_of_optax() -> None:
    """Functions of optax take it, and its two functions are what they were."""
    tx: Any = GAMES["implicit"]()
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    assert optax.with_extra_args_support(tx) is tx
    init, update = tx
    assert (init, update) == (tx.init, tx.update) and len(tx) == 2
    restored = jax.tree.map(lambda function: function, tx)
    assert restored == tx and type(restored) is type(tx) and str(restored)
    assert str(tx._replace(init=init))

    params = NET.init(jax.random.key(0), X)
    zeros = jax.tree.map(jnp.zeros_like, params)
    injected = optax.inject_hyperparams(
        lambda strength: gt.implicit(
            optax.sgd(0.1, 0.9), NET, LOSS, weighting="full", strength=strength
        )
    )

    for wrapped in (optax.chain(tx), optax.named_chain(("game", tx)), injected(1.0)):
        step = partial(wrapped.update, zeros, params=params, batch=(X, LABELS))
        updates, state = jax.eval_shape(step, jax.eval_shape(wrapped.init, params))
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        assert "ImplicitState(step int32[], loss float32[])" in str(state)


@pytest.mark.parametrize("game", GAMES)
def test_states_and_reports_are_one_line(game: str) -> None:
    tx: Any = GAMES[game]()
    params = NET.init(jax.random.key(0), X)
    seen: list[str] = []

    def note(state: Any) -> None:
        seen.extend(map(str, (state, state.report, (state, params)[0])))

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        note(state)
        updates, state = tx.update(None, state, params, batch=(X, LABELS))
        note(state)
        return (optax.apply_updates(params, updates), state), state.report

    first: Any = tx.init(params)
    note(first)
    compiled = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=2))
    (_, state), reports = compiled((params, first))
    assert "traced" in seen[-1] or "traced" in seen[-2]
    note(state)
    assert str(reports) == str(state.report)  # of several reports the last

    number = r"-?[\d.]+(e-\d+)?"
    weights = rf"weights {number} ± {number} in \[{number}, {number}\]"
    assert re.search(rf"loss {number}, {weights}, ", str(state.report))
    assert f"loss {state.report.loss:.4g}, weights {state.report.sample_weight_mean:.4g} ±" in str(
        state
    )
    assert f"predicted change {state.report.predicted_change:.2g}" in str(state)
    assert ("actual" in str(state)) == ("feedback" in str(state)) == (game == "sequential")
    assert "double_counted" not in str(state) and "samples_coupled" not in str(state)

    # What users put in the place of arrays.
    for replaced in (
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state),
        jax.tree.map(lambda _: jax.sharding.PartitionSpec(), state),
        jax.tree.map(lambda _: None, state),
        jax.tree.map(lambda _: True, state),
        jax.tree.map(lambda _: "label", state),
        jax.tree.map(np.asarray, state),
        jax.tree.map(lambda leaf: leaf[None][:0], state),
        jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state),
        state._replace(report=None),
    ):
        note(replaced)
    abstract: Any = jax.eval_shape(lambda: state)
    assert "float32[]" in str(abstract.report)
    for leaf in jax.tree.leaves(state):
        leaf.delete()  # as donation does
    note(state)
    assert all(
        len(line) <= LINE_LIMIT and "\n" not in line and "Array(" not in line for line in seen
    )


def test_the_state_in_an_nnx_optimizer_is_one_line() -> None:
    """Its arrays are variables there, outside and inside of `nnx.jit`."""
    tx: Any = GAMES["implicit"]()
    plain = tx.init({"kernel": jnp.ones((3, 1), jnp.float32)})
    state: Any = jax.tree.map(nnx.Variable, plain)
    line = "ImplicitState(step 0, loss 0, weights all 1, predicted change 0, skipped 0)"
    assert str(state) == line
    assert state.report.scalars() == plain.report.scalars()

    @nnx.jit
    def inside(state: Any) -> Any:
        assert str(state) == "ImplicitState(step traced int32[], loss traced float32[])"
        return state.report.scalars()

    assert inside(state)["sample_weight_std/0"] == 0


def test_a_report_names_what_is_wrong() -> None:
    tx: Any = GAMES["sequential"]()
    report = tx.init(NET.init(jax.random.key(0), X)).report
    assert str(report) == (
        "Report(loss 0, weights all 1, feedback 0 %, predicted change 0, skipped 0)"
    )
    raised = report._replace(
        loss=jnp.array(jnp.nan),
        feedback_ratio=jnp.array([0.01, 0.03]),
        skipped=jnp.array(True),
        skipped_steps=jnp.array(12),
        double_counted=jnp.array(True),
        samples_coupled=jnp.array(True),
    )
    assert str(raised) == (
        "Report(loss nan, weights all 1, feedback 2 %, predicted change 0, skipped 12 with this "
        "one, double_counted, samples_coupled)"
    )


def test_a_joint_state_says_how_its_terms_do() -> None:
    tx: Any = gt.joint({"fit": lambda w, x: w - x, "decay": lambda w, x: x * w}, 0.5)
    w, batch = jnp.array(1.0), {"fit": jnp.array([3.0]), "decay": jnp.array([0.5])}
    states = [tx.init(w)]
    text = []

    @jax.jit
    def step(state: Any) -> Any:
        text.append(str(state.report))
        return tx.update(None, state, w, batch=batch)[1]

    states += [step(states[0])]
    assert str(states[1]) == (
        "JointState(step 1, loss 2.125 (decay 0.125, fit 2), predicted change -1.1, actual -1.1, "
        "damping 0.5, step length 1, Cholesky, skipped 0)"
    )
    assert text == ["JointReport(loss traced float32[])"]
    skipped = states[1].report._replace(skipped=jnp.array(True), samples_coupled=jnp.array(True))
    assert str(skipped).endswith("skipped 0 with this one, samples_coupled)")
