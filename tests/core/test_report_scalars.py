"""`Report.scalars`: plain numbers for any logger, outside and inside compiled functions."""

import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt

NET = gt.Network([nn.Dense(3), jnp.tanh, nn.Dense(3)])
X = jnp.sin(jnp.arange(12.0, dtype=jnp.float32).reshape(4, 3))
BATCH = (X, jnp.arange(4) % 3)
LOSS = optax.softmax_cross_entropy_with_integer_labels
GAMES: dict[str, Any] = {
    "implicit": lambda: gt.implicit(optax.sgd(0.1, 0.9), NET, LOSS, weighting="full"),
    "sequential": lambda: gt.sgd(NET, LOSS, 0.1),
}


@pytest.mark.parametrize("game", GAMES)
def test_every_number_of_a_report_has_a_name(game: str) -> None:
    tx: Any = GAMES[game]()
    params = NET.init(jax.random.key(0), X)

    def step(state: Any, _: None) -> tuple[Any, Any]:
        _, state = tx.update(None, state, params, batch=BATCH)
        return state, (state.report, state.report.scalars())

    steps = jax.jit(lambda state: jax.lax.scan(step, state, None, length=2))
    state, (reports, inside_steps) = steps(tx.init(params))
    report, inside = jax.tree.map(lambda stacked: stacked[-1], (reports, inside_steps))
    scalars = report.scalars()
    assert scalars == state.report.scalars()
    assert all(value.shape == () for value in inside.values())
    assert {name: value.item() for name, value in inside.items()} == scalars
    assert all(type(value) in (float, int, bool) for value in scalars.values())
    assert json.loads(json.dumps(scalars)) == scalars
    assert {name: float(value) for name, value in scalars.items()} == scalars

    stages = len(report.sample_weight_std)
    assert stages == {"implicit": 1, "sequential": 2}[game]
    expected: dict[str, Any] = {}
    for name, value in report._asdict().items():
        if name in ("sample_weight_std", "feedback_ratio") and value is not None:
            expected |= {f"{name}/{number}": value[number] for number in range(stages)}
        elif value is not None:
            expected[name] = value
    assert list(scalars) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(value), scalars[name])
    assert ("feedback_ratio/0" in scalars) == (game == "sequential")

    # Reports stacked by a scan: one entry for each of them.
    stacked = reports.scalars()
    assert stacked["loss/1"] == reports.loss[1].item()
    assert stacked["sample_weight_std/1/0"] == reports.sample_weight_std[1, 0].item()
    # NumPy's arrays, as checkpoints give them.
    assert jax.tree.map(np.asarray, report).scalars() == scalars


def test_a_joint_report_names_the_losses_of_its_terms() -> None:
    tx: Any = gt.joint({"b": lambda w, x: w * x, "a": lambda w, x: w - x})
    w, x = jnp.ones(()), jnp.arange(3.0)

    def step(state: Any, _: None) -> tuple[Any, Any]:
        _, state = tx.update(None, state, w, batch={"a": x, "b": x})
        return state, state.report

    state, reports = jax.jit(lambda state: jax.lax.scan(step, state, None, length=2))(tx.init(w))
    scalars = state.report.scalars()
    assert json.loads(json.dumps(scalars)) == scalars
    assert list(scalars)[:3] == ["loss", "term_losses/a", "term_losses/b"]
    assert scalars["term_losses/b"] == state.report.term_losses["b"].item()
    assert reports.scalars()["term_losses/b/1"] == scalars["term_losses/b"]
    assert len(scalars) == len(state.report) + 1
