"""A training loop without `jax.jit` gets one warning, with the compiled step; nothing else does."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.core import eager_steps
from tests.conftest import RunPython

X = jnp.ones((2, 2), jnp.float32)
PARAMS = jnp.ones((2, 1), jnp.float32)
HINT = r"implicit: tx\.update runs outside of jax\.jit.*make_update\(tx\); params, state = step\("

LOOP = """
import jax.numpy as jnp, optax
import gtddp_jax as gt

params = x = jnp.ones((2, 2))
loss = lambda outputs, y: jnp.square(outputs - y).sum(-1)
tx = gt.implicit(optax.sgd(0.1), lambda params, x: x @ params, loss, strength=0.0)
state = tx.init(params)
for _ in range(3):
    updates, state = tx.update(None, state, params, batch=(x, x))  # here
    params = optax.apply_updates(params, updates)
"""


def game() -> Any:
    """The cheapest game; its base is what takes the step."""
    return gt.implicit(
        optax.sgd(0.1), apply, lambda outputs, y: jnp.square(outputs - y).sum(-1), strength=0.0
    )


def apply(params: jax.Array, inputs: jax.Array) -> jax.Array:
    return inputs @ params


def train(tx: Any, steps: int, params: Any = PARAMS) -> tuple[Any, Any]:
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(jnp.zeros_like(params), state, params, batch=(X, X[:, :1]))
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts as a process does, without exceptions for tests."""
    monkeypatch.setattr(eager_steps, "_HISTORY", eager_steps._EagerHistory())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


EAGER: dict[str, Callable[[], Any]] = {
    "alone": game,
    "in a chain": lambda: optax.chain(optax.add_decayed_weights(0.1), game()),
    # It builds the game again in every step.
    "with injected hyperparameters": lambda: optax.inject_hyperparams(
        lambda learning_rate: gt.implicit(
            optax.sgd(learning_rate),
            apply,
            lambda outputs, y: jnp.square(outputs - y).sum(-1),
            strength=0.0,
        )
    )(0.1),
}


@pytest.mark.parametrize("name", EAGER)
def test_the_second_step_of_a_run_warns_once(name: str) -> None:
    tx = EAGER[name]()
    with pytest.warns(gt.GameWarning, match=HINT) as seen:
        train(tx, 4)
        train(game(), 2)
    assert len(seen) == 1


@pytest.mark.slow
def test_the_joint_game_warns_too() -> None:
    tx: Any = gt.joint(lambda params, x: x @ params)
    state = tx.init(PARAMS)
    with pytest.warns(gt.GameWarning, match=r"joint: tx\.update runs outside of jax\.jit"):
        for _ in range(2):
            _, state = tx.update(None, state, PARAMS, batch=X)


def test_one_step_of_many_games_is_silent() -> None:
    for _ in range(3):
        train(game(), 1)
    state = game().init(PARAMS)
    look = gt.implicit_weights(
        optax.sgd(0.1), apply, lambda outputs, y: jnp.square(outputs - y).sum(-1), strength=0.0
    )
    for _ in range(2):
        look(state, PARAMS, (X, X[:, :1]))


@pytest.mark.slow
def test_compiled_steps_are_silent() -> None:
    """Whatever of the arguments is traced, if anything."""
    tx: Any = game()
    params, state = jax.jit(lambda: train(tx, 3))()
    step = gt.make_update(tx)
    for _ in range(2):
        params, state = step(params, state, (X, X[:, :1]))
    jax.eval_shape(lambda: train(tx, 3))
    jax.vmap(lambda params: train(tx, 3, params))(jnp.stack([PARAMS, PARAMS]))
    # One eager step before a compiled one, and after it.
    _, state = tx.update(None, state, params, batch=(X, X[:, :1]))
    params, state = step(params, state, (X, X[:, :1]))
    tx.update(None, state, params, batch=(X, X[:, :1]))


def test_debugging_without_compilation_is_silent() -> None:
    with jax.disable_jit():
        train(game(), 3)


@pytest.mark.slow
def test_a_user_sees_the_line_of_the_loop(run_python: RunPython, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    result = run_python(str(script))
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("GameWarning") == 1
    assert f"{script}:10: GameWarning: implicit: tx.update runs outside" in result.stderr
    assert "# here" in result.stderr
