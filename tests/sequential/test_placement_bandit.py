"""`Residual(at="bandit")`: each step is that of one placement, and EXP3 learns which to play."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax.sequential import placement_bandit
from gtddp_jax.sequential.placement_bandit import PlacementState
from tests.sequential import oracle, zoo

Tree = Any
LOSS: Any = optax.softmax_cross_entropy_with_integer_labels
RATE = 0.05


def network(at: Any) -> gt.Network:
    """A block of two stages with a player on its shortcut."""
    block = gt.Residual([nn.Dense(4), nn.tanh, nn.Dense(4)], nn.Dense(4), at=at)
    return gt.Network([nn.Dense(4), nn.tanh, block, nn.tanh, nn.Dense(3)])


NET, FIXED = network("bandit"), [network(0), network(1)]
X, Y = jax.random.normal(jax.random.key(1), (6, 5)), jnp.arange(6) % 3


def initial_params() -> Tree:
    return zoo.cast(NET.init(jax.random.key(0), X[:1]), jnp.float64)


def literal_state(tx: Any, net: gt.Network, params: Tree, moments: dict[str, Any]) -> Any:
    """The state of Adam in which each player has the given moments, stage by stage."""
    state = tx.init(params)
    stages = []
    for stage, of_stage in zip(net.stages, state.curvature, strict=True):
        mu, nu = ({name: moments[name][i] for name in stage.players} for i in range(2))
        count = jnp.asarray(moments["count"], jnp.int32)
        stages.append(optax.tree_utils.tree_set(of_stage, mu=mu, nu=nu, count=count))
    return state._replace(curvature=tuple(stages))


def moments_of(net: gt.Network, state: Any, count: int) -> dict[str, Any]:
    """The inverse of `literal_state`."""
    found: dict[str, Any] = {"count": count}
    for stage, of_stage in zip(net.stages, state.curvature, strict=True):
        mu, nu = (optax.tree_utils.tree_get(of_stage, name) for name in ("mu", "nu"))
        found |= {name: (mu[name], nu[name]) for name in stage.players}
    return found


def test_each_step_is_that_of_the_placement_played() -> None:
    """Adam's moments go with their player, whichever stages it acts in."""
    tx: Any = gt.adam(NET, LOSS, RATE)
    fixed: list[Any] = [gt.adam(net, LOSS, RATE) for net in FIXED]
    params = initial_params()
    state = tx.init(params)

    @jax.jit
    def run(params: Tree, state: Any, moments: Any) -> Any:
        all_fixed = []
        for game, net in zip(fixed, FIXED, strict=True):
            own = literal_state(game, net, params, moments)
            all_fixed.append(game.update(None, own, params, batch=(X, Y)))
        return tx.update(None, state, params, batch=(X, Y)), all_fixed

    moments = moments_of(FIXED[0], fixed[0].init(params), 0)
    played = np.zeros(2, int)
    for count in range(1, 13):
        (step, after), all_fixed = run(params, state, moments)
        (chosen,) = np.flatnonzero(np.asarray(after.placement.played) - played)
        played[chosen] += 1
        want, fixed_state = all_fixed[chosen]
        assert oracle.relative_error(step, want) < 1e-12
        assert oracle.relative_error(step, all_fixed[1 - chosen][0]) > 1e-8
        moments = moments_of(FIXED[chosen], fixed_state, count)
        params, state = optax.apply_updates(params, step), after
    assert (played > 0).all()


@pytest.mark.parametrize("rollout", ["linear", "nonlinear"])
def test_the_reward_is_the_decrease_on_the_same_batch(rollout: str) -> None:
    tx: Any = gt.sgd(NET, LOSS, RATE, rollout=rollout)
    params = initial_params()
    step, state = jax.jit(lambda p: tx.update(None, tx.init(p), p, batch=(X, Y)))(params)
    new_params: Any = optax.apply_updates(params, step)
    before, after = (LOSS(NET.apply(p, X), Y).mean() for p in (params, new_params))
    bandit = state.placement
    np.testing.assert_allclose(bandit.decrease_mean / bandit.total_weight, before - after, 1e-5)
    np.testing.assert_array_equal(bandit.log_weights, 0.0)  # one step has nothing to compare with


def test_probabilities_are_those_of_exp3() -> None:
    """By the table in `placement_bandit`, from all decreases so far."""
    rng = np.random.default_rng(0)
    count, gamma, decay = 3, placement_bandit.EXPLORATION, placement_bandit.BASELINE_DECAY
    decreases, placements = 0.1 + 0.01 * rng.normal(size=40), rng.integers(0, count, 40)
    decreases[20] = 5.0  # beyond the bound of a reward
    state = placement_bandit.initial_placement_state(count)
    log_weights, deviations = np.zeros(count), np.zeros(0)
    for step, (decrease, k) in enumerate(zip(decreases, placements, strict=True)):
        softmax = np.exp(log_weights) / np.exp(log_weights).sum()
        p = (1 - gamma) * softmax + gamma / count
        np.testing.assert_allclose(placement_bandit.placement_probabilities(state), p, rtol=1e-4)
        mean = decrease
        if step > 0:
            ages = decay ** np.arange(step)[::-1]
            mean = np.average(decreases[:step], weights=ages)
            deviation = np.sqrt(np.average(deviations, weights=ages))
            if deviation > 0:
                reward = 0.5 + np.clip((decrease - mean) / (4 * deviation), -0.5, 0.5)
                log_weights[k] += gamma / count * (reward - 0.5) / p[k]
        deviations = np.append(deviations, (decrease - mean) ** 2)
        state = placement_bandit.reward_placement(
            state, jnp.asarray(k), jnp.asarray(decrease), jnp.asarray(True)
        )
    np.testing.assert_array_equal(state.played, np.bincount(placements, minlength=count))


def test_the_better_of_two_placements_is_played_more_often() -> None:
    """Noise in the decreases is as large as the difference."""

    def body(state: PlacementState, noise: jax.Array) -> tuple[PlacementState, None]:
        placement, state = placement_bandit.draw_placement(state)
        decrease = 1.0 + 0.1 * placement + 0.1 * noise
        return placement_bandit.reward_placement(state, placement, decrease, noise < 9), None

    start = placement_bandit.initial_placement_state(2)
    noise = jax.random.normal(jax.random.key(3), (800,), jnp.float32)
    state, _ = jax.jit(lambda: jax.lax.scan(body, start, noise))()
    assert placement_bandit.placement_probabilities(state)[1] > 0.8
    assert state.played.sum() == 800


def test_draws_follow_the_key_in_the_state() -> None:
    """Equal keys repeat a run bit for bit, another key gives another one."""
    tx: Any = gt.sgd(NET, LOSS, RATE)
    params = initial_params()
    update = jax.jit(lambda p, s: tx.update(None, s, p, batch=(X, Y)))

    def run(seed: int) -> list[int]:
        state, now, drawn = tx.init(params), params, []
        key = jax.random.key_data(jax.random.key(seed))
        state = state._replace(placement=state.placement._replace(key=key))
        for _ in range(8):
            step, state = update(now, state)
            now = optax.apply_updates(now, step)
            drawn.append(int(state.placement.played[1]))
        return drawn

    assert run(0) == run(0) != run(1)


def test_a_skipped_step_teaches_nothing() -> None:
    tx: Any = gt.sgd(NET, LOSS, RATE)
    params = initial_params()
    state = tx.init(params)
    _, after = tx.update(None, state, params, batch=(X * jnp.nan, Y))
    assert after.report.skipped
    assert (after.placement.key != state.placement.key).any()
    for name in ("log_weights", "decrease_mean", "decrease_variance", "total_weight", "played"):
        np.testing.assert_array_equal(getattr(after.placement, name), 0, err_msg=name)


def test_the_report_has_the_distribution() -> None:
    """Of this step, in the printed line and among the scalars."""
    tx: Any = gt.sgd(NET, LOSS, RATE)
    params = initial_params()
    state = tx.init(params)
    state = state._replace(
        placement=state.placement._replace(log_weights=jnp.log(jnp.array([1.0, 4.0], jnp.float32)))
    )
    seen: list[Any] = []
    _, after = tx.update(None, state, params, batch=(X, Y), observe=seen.append)
    want = [0.9 * 0.2 + 0.05, 0.9 * 0.8 + 0.05]
    np.testing.assert_allclose(after.report.placement_probabilities, want, rtol=1e-6)
    assert "placements 0.23 0.77" in repr(after.report)
    assert "placement_probabilities/1" in after.report.scalars()
    assert [weights.shape for weights in seen] == [(4, 6)]


def test_without_feedback_all_placements_are_the_same_game() -> None:
    params = initial_params()
    steps = []
    for net in (NET, FIXED[1]):
        tx: Any = gt.adam(net, LOSS, RATE, equilibrium="open_loop")
        step, state = tx.update(None, tx.init(params), params, batch=(X, Y))
        assert state.placement == () and state.report.placement_probabilities is None
        steps.append(step)
    assert oracle.relative_error(*steps) < 1e-12


def test_placements_are_those_of_the_networks_they_stand_for() -> None:
    """Of two shortcuts the last varies fastest; blocks in a block are placed as well."""
    inner = gt.Residual([nn.Dense(4), nn.Dense(4)], nn.Dense(4), at="bandit")
    net = gt.Network([gt.Residual([inner, nn.Dense(4)], nn.Dense(4), at="bandit"), nn.Dense(3)])
    placed = [[stage.players for stage in each.stages[:3]] for each in net.placed_networks()]
    # The inner shortcut is Dense_2, the outer one Dense_4.
    want = []
    for at_inner in range(2):
        for at_outer in range(3):
            stages: list[tuple[str, ...]] = [("Dense_0",), ("Dense_1",), ("Dense_3",)]
            stages[at_inner] += ("Dense_2",)
            stages[at_outer] += ("Dense_4",)
            want.append(stages)
    assert placed == want


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gt.kfac(NET, LOSS, RATE), "must treat each player alone.*got KFAC"),
        (
            lambda: gt.gtddp(NET, None, gt.curvature.SGD(RATE)),
            "at='bandit' evaluates the loss once more",
        ),
        (
            lambda: gt.sgd(
                gt.Network(
                    [
                        gt.Residual([nn.Dense(4), nn.Dense(4)], nn.Dense(4), at="bandit")
                        for _ in range(5)
                    ]
                ),
                LOSS,
                RATE,
            ),
            "combinations of placements, and each is one more game",
        ),
        (
            lambda: gt.Network([gt.Residual([nn.Dense(4)], nn.Dense(4), at="bandit")]),
            "has nothing to choose; a shortcut with",
        ),
        (
            lambda: gt.Network([gt.Residual([nn.Dense(4), nn.Dense(4)], at="bandit")]),
            "has nothing to choose; a shortcut with",
        ),
        (lambda: gt.Residual([nn.Dense(4)], at="bandits"), "a body stage, or 'bandit'"),
    ],
)
def test_what_has_no_placements_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_base_that_couples_players_is_refused() -> None:
    """Its state has leaves for several players, which cannot be in two stages."""

    def init(params: Tree) -> Any:
        return jnp.zeros(len(params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        return updates, state

    base = optax.GradientTransformation(init, update)
    params = initial_params()
    tx: Any = gt.gtddp(NET, LOSS, gt.curvature.FromOptax(optax.chain(base, optax.sgd(RATE))))
    with pytest.raises(ValueError, match="keeps statistics that belong to several players"):
        tx.init(params)
