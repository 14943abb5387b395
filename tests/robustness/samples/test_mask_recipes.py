"""The losses of docs/masks.md, as they stand there, in both games."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.robustness.samples.games import BATCH, IMAGES, KEEP, LABELS, Game, Player, cross_entropy

PAGE = Path(__file__).resolve().parents[3] / "docs" / "masks.md"
Loss = Callable[[Any, Any], jax.Array]
BOTH = {
    "implicit": lambda net, loss: gt.implicit(
        optax.sgd(0.3, momentum=0.9), net, loss, weighting="full"
    ),
    "sequential": lambda net, loss: gt.adam(net, loss, 0.05),
}
TOKENS = gt.Network([nn.Dense(4), jnp.tanh, nn.Dense(3)])
TOKEN_LABELS = np.random.default_rng(0).integers(0, 3, size=(BATCH, 3))


def documented_losses() -> dict[str, Loss]:
    """The functions of the page, without its other statements."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    body: list[ast.stmt] = [
        statement
        for statement in ast.parse(code).body
        if isinstance(statement, (ast.Import, ast.FunctionDef))
        or ast.unparse(statement).startswith("cross_entropy = ")
    ]
    names: dict[str, Any] = {}
    exec(compile(ast.Module(body, []), PAGE.name, "exec"), names)
    return names


LOSSES = documented_losses()


def players(game: str, net: gt.Network, *losses: Loss) -> list[Player]:
    return [Player(Game(BOTH[game], net), loss) for loss in losses]


def assert_close(got: Any, want: Any) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def assert_taken(player: Player) -> None:
    assert not player.state.report.skipped
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(player.params))


@pytest.mark.parametrize("game", BOTH)
def test_samples(game: str) -> None:
    """Padding has labels of -100, and a whole batch of it is no fault."""
    masked, alone = players(game, TOKENS, LOSSES["masked_samples"], cross_entropy)
    labels, x = np.where(KEEP, LABELS, -100), IMAGES[:, 0]
    for _ in range(2):
        got, want = masked.step(x, (labels, KEEP)), alone.step(x[KEEP], LABELS[KEEP])
        assert_close(got, want)
        assert masked.state.report.loss == pytest.approx(float(alone.state.report.loss), rel=1e-6)
    masked.step(x, (labels, np.zeros(BATCH, bool)))
    assert masked.state.report.loss == 0
    assert_taken(masked)


@pytest.mark.parametrize("game", BOTH)
def test_positions(game: str) -> None:
    """Means over the positions of a sequence; empty sequences have a loss of zero."""

    def mean(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return len(KEEP[KEEP]) / BATCH * cross_entropy(outputs, labels).mean(-1)

    masked, alone = players(game, TOKENS, LOSSES["masked_positions"], mean)
    # Of each sequence that is not empty the first two positions count.
    mask = KEEP[:, None] & (np.arange(3) < 2)
    labels = np.where(mask, TOKEN_LABELS, -100)
    for _ in range(2):
        got = masked.step(IMAGES, (labels, mask))
        assert_close(got, alone.step(IMAGES[KEEP, :2], TOKEN_LABELS[KEEP, :2]))
        assert masked.state.report.loss == pytest.approx(float(alone.state.report.loss), rel=1e-6)
    masked.step(IMAGES, (labels, np.zeros_like(mask)))
    assert masked.state.report.loss == 0
    assert_taken(masked)


@pytest.mark.parametrize("game", BOTH)
def test_missing_targets(game: str) -> None:
    """NaN targets, of one output, of a whole sample and of the whole batch."""

    def scaled(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return len(KEEP[KEEP]) / BATCH * jnp.square(outputs - targets).mean(-1)

    masked, alone = players(game, TOKENS, LOSSES["known_targets"], scaled)
    targets = np.cos(np.arange(3.0 * BATCH)).reshape(BATCH, 3)
    x, missing = IMAGES[:, 0], np.where(KEEP[:, None], targets, np.nan)
    for _ in range(2):
        assert_close(masked.step(x, missing), alone.step(x[KEEP], targets[KEEP]))
        assert masked.state.report.loss == pytest.approx(float(alone.state.report.loss), rel=1e-6)
    missing[0, 1] = np.nan
    masked.step(x, missing)
    assert_taken(masked)
    masked.step(x, np.full_like(missing, np.nan))
    assert masked.state.report.loss == 0
    assert_taken(masked)


@pytest.mark.parametrize("game", BOTH)
def test_a_nan_gradient_behind_a_finite_loss_skips_the_step(game: str) -> None:
    """The loss that the page warns of: `where` after the NaN has been used."""

    def too_late(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.where(jnp.isnan(targets), 0, jnp.square(outputs - targets)).mean(-1)

    (player,) = players(game, TOKENS, too_late)
    before = player.params
    targets = np.where(KEEP[:, None], np.ones((BATCH, 3)), np.nan)
    player.step(IMAGES[:, 0], targets)
    report = player.state.report
    assert report.skipped and report.skipped_steps == 1 and np.isfinite(report.loss)
    assert_close(player.params, before)
    player.step(IMAGES[:, 0], np.ones((BATCH, 3)))
    assert not player.state.report.skipped


@pytest.mark.parametrize("game", BOTH)
def test_the_reported_loss_is_the_mean_over_all_samples(game: str) -> None:
    """Zeros included: of the numbers that the loss returns, whatever they are divided by."""
    masks = {"plain": 1.0, "divided": KEEP.mean()}
    for label, divisor in masks.items():

        def loss(outputs: jax.Array, targets: Any, divisor: float = divisor) -> jax.Array:
            return jnp.where(targets[1], cross_entropy(outputs, targets[0]), 0) / divisor

        (player,) = players(game, TOKENS, loss)
        params: Any = player.params
        outputs = TOKENS.apply(params, jnp.asarray(IMAGES[:, 0]))
        each = np.asarray(cross_entropy(outputs, jnp.asarray(LABELS)))
        player.step(IMAGES[:, 0], (LABELS, KEEP))
        want = each[KEEP].mean() * (1 if label == "divided" else KEEP.mean())
        assert player.state.report.loss == pytest.approx(want, rel=1e-6)
