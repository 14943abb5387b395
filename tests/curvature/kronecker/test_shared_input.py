"""Players with one input whose outputs are added (Fig. 7a, Cor. 7), and how they are recognized."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.network.protocol import StageIndex
from tests.curvature.kronecker import joint
from tests.default_run import quick_cases
from tests.sequential import oracle, zoo

EXACT = ("kfac", "ekfac")
Layers = list[Any]

TABLES = {
    "dense": lambda: joint.deal([(nn.Dense(2), (3,))] * 2, shared=True),
    "three": lambda: joint.deal([(nn.Dense(2), (2,))] * 3, shared=True),
    "conv": lambda: joint.deal([(zoo.conv(2, (2, 1), strides=2), (4, 2, 1))] * 2, shared=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_shared_input_has_the_dense_joint_matrix(name: str) -> None:
    """By closed form under exact damping, else by joint factors, which are singular here.

    The latter are factored damping, and theorem3 and rescale with more than two players.
    """
    t = TABLES[name]()
    n = len(t.stage.player_ops)
    cases = [(m, mode) for m in joint.METHODS for mode in joint.MODES]
    if n > 2:
        cases.remove(("kfac_factored", "joint"))

    @jax.jit
    def both(data: joint.Data) -> Any:
        players = t.vectors(data)
        samples = t.vectors(data._replace(alpha=jnp.ones_like(data.alpha)))
        each = jnp.concatenate([joint.gradients(v) for v in samples], axis=1)
        found = {}
        for method, mode in cases:
            rule = joint.METHODS[method]
            own = [rule.own(v) for v in players]
            closed = method in EXACT and (n == 2 or mode == "joint")
            p = (
                joint.shared_input_inverse(mode, n, own[0])
                if closed
                else joint.inverse(mode, players, own)
            )
            ours = joint.policy(rule.curvature(mode), t, data)
            forms = jnp.einsum("bm,mn,bn->b", each, joint.RATE * p, each)
            got = joint.dense(ours, t), ours.quadratic_form()
            found[method, mode] = got, (joint.RATE * p, forms)
        return found

    for case, (got, want) in both(t.data).items():
        for a, b in zip(got, want, strict=True):
            assert joint.error(a, b) < 1e-9, case
        np.testing.assert_allclose(got[0], got[0].T, rtol=1e-9, atol=1e-12, err_msg=str(case))
        assert np.linalg.eigvalsh(got[0]).min() > 0, case


@pytest.mark.parametrize("n", quick_cases([2, 3]))
@pytest.mark.parametrize("method", quick_cases(EXACT))
def test_corollary_7(method: str, n: int) -> None:
    """Eigenvalues of P, and the open gain, where all players have the same gradient."""
    t = joint.deal([(nn.Dense(4), (3,))] * n, shared=True)
    rule = joint.METHODS[method]

    @jax.jit
    def found(data: joint.Data) -> Any:
        v = t.vectors(data)[0]
        q, curvature = joint.gradients(v).mean(0), rule.own(v).curvature
        policies = {
            mode: joint.policy(rule.curvature(mode), t, data)
            for mode in joint.MODES
            if n == 2 or mode == "joint"
        }
        gains = {mode: joint.flat(p.open_gain, t.stage.players) for mode, p in policies.items()}
        return q, curvature, gains, {mode: joint.dense(p, t) for mode, p in policies.items()}

    q, curvature, gains, p = jax.tree.map(np.asarray, found(t.data))
    value, gamma = np.linalg.eigvalsh(curvature), joint.GAMMA
    want = {
        "rescale": np.concatenate([1 / (gamma + gamma * value / (gamma + value))] * 2),  # Eq. 24
        "theorem3": np.concatenate([np.full_like(value, 1 / gamma), 1 / (gamma + 2 * value)]),
        "joint": np.concatenate(
            [1 / (gamma + n * value), np.full((n - 1) * value.size, 1 / gamma)]
        ),
    }
    for mode in p.keys() - {"none"}:
        eigenvalues = np.linalg.eigvalsh(p[mode]) / joint.RATE
        np.testing.assert_allclose(eigenvalues, np.sort(want[mode]), rtol=1e-9, err_msg=mode)
    eye = np.eye(q.size)
    together = np.linalg.solve(gamma * eye + n * curvature, q)
    assert joint.error(gains["joint"], -joint.RATE * np.tile(together, n)) < 1e-9
    if n == 2:  # all curvature cancels
        assert joint.error(gains["theorem3"], -joint.RATE / gamma * np.tile(q, n)) < 1e-9


@pytest.mark.slow
def test_theorem_3_cancels_curvature_in_a_network() -> None:
    """The step of the Fig. 7a block is gradient descent with rate eta / gamma; so for groups."""
    grouped = functools.partial(zoo.conv, 4, (2, 1), feature_group_count=2)
    spec = zoo.Spec(
        lambda: [
            gt.Cooperative([grouped(), grouped()]),
            jnp.tanh,
            zoo.flatten,
            gt.Cooperative([nn.Dense(4), nn.Dense(4)]),
        ],
        (2, 2, 2),
    )
    p, loss = zoo.make(spec, batch=3), zoo.LOSSES["softmax"]

    @jax.jit
    def both(params: Any) -> Any:
        def mean(params: Any) -> jax.Array:
            return loss(p.net.apply(params, p.x), p.y).mean()

        want = jax.tree.map(lambda g: -joint.RATE / joint.GAMMA * g, jax.grad(mean)(params))
        found = {}
        for method in EXACT:
            curvature = joint.METHODS[method].curvature("theorem3")
            tx: Any = gt.gtddp(p.net, loss, curvature, equilibrium="open_loop")
            found[method], _ = tx.update(None, tx.init(params), params, batch=(p.x, p.y))
        return found, want

    found, want = both(p.params)
    for updates in found.values():
        assert oracle.relative_error(updates, want) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("method", quick_cases(EXACT))
def test_shared_input_may_be_wide(method: str) -> None:
    """Factors of low rank that keep all vectors of the batch give the same P."""
    t = joint.deal([(nn.Dense(2), (5,))] * 2, shared=True)
    make = {"kfac": gt.curvature.KFAC, "ekfac": gt.curvature.EKFAC}[method]

    @jax.jit
    def both(data: joint.Data) -> Any:
        found = {}
        for mode in joint.MODES:
            low = make(
                joint.RATE,
                joint.GAMMA,
                cooperative=mode,
                full_limit=1,
                window_rows=4,
                **joint.EVERY,
            )
            full = joint.METHODS[method].curvature(mode)
            policies = [joint.policy(curvature, t, data) for curvature in (low, full)]
            assert policies[0].state.factors.players["u"].row_basis.vectors.shape == (1, 4, 6)
            found[mode] = [joint.dense(found, t) for found in policies]
        return found

    for mode, (got, want) in both(t.data).items():
        assert joint.error(got, want) < 1e-9, mode


def residual(body: Layers, shortcut: Layers, **options: Any) -> Layers:
    return [gt.Residual(body, shortcut, **options)]


D, C = nn.Dense, zoo.conv
SHARED: dict[str, Any] = {
    "cooperative": lambda: [gt.Cooperative([D(3), D(3)])],
    "no_bias": lambda: [gt.Cooperative([joint.plain(3), joint.plain(3)])],
    "between_functions": lambda: [D(2), jnp.tanh, gt.Cooperative([D(3), D(3)]), jnp.tanh],
    "three": lambda: [gt.Cooperative([D(3), D(3), D(3)])],
    "sum_of_sums": lambda: residual([gt.Cooperative([D(3), D(3)])], [D(3)]),
    "sum_at_a_split": lambda: [gt.Residual([gt.Residual([D(2)], [D(2)]), D(2)])],
    "sum_in_an_identity": lambda: residual([gt.Residual([D(2)])], [D(2)]),
    "beside_an_identity": lambda: [D(3), gt.Residual([gt.Cooperative([D(3), D(3)])])],
    "shortcut": lambda: residual([D(3)], [D(3)]),
    "shared_head": lambda: [D(2), gt.Residual([D(3)], [D(3)]), jnp.tanh],
    "conv": lambda: [gt.Cooperative([C(2, strides=2), C(2, strides=2)])],
    "conv_in_other_words": lambda: residual(
        [C(2, strides=2, padding=1)],
        [C(2, strides=(2, 2), padding=((1, 1), (1, 1)), kernel_dilation=(1, 1))],
    ),
    "conv_1d_in_other_words": lambda: [
        gt.Cooperative([nn.Conv(2, (3,)), nn.Conv(2, 3, strides=None, kernel_dilation=None)])
    ],
    "conv_grouped": lambda: [
        gt.Cooperative([C(2, feature_group_count=2), C(2, feature_group_count=2)])
    ],
}
SEPARATE: dict[str, Any] = {
    "bias": lambda: [gt.Cooperative([D(3), joint.plain(3)])],
    "activation": lambda: residual([D(3), jnp.tanh], [D(3)]),
    "activation_on_the_shortcut": lambda: residual([D(3)], [D(3), jnp.tanh]),
    "activation_before": lambda: residual([jnp.tanh, D(3)], [D(3)]),
    "longer_body": lambda: residual([D(3), D(3)], [D(3)]),
    "later": lambda: residual([D(3), D(3)], [D(3)], at=1),
    "kernel_size": lambda: [gt.Cooperative([C(2), C(2, (1, 1))])],
    "kernel_of_one_size": lambda: [gt.Cooperative([C(2, (1, 2)), C(2, (2, 1))])],
    "dilation": lambda: [gt.Cooperative([C(2), C(2, kernel_dilation=2)])],
    "padding": lambda: [gt.Cooperative([C(2, padding=1), C(2, padding=((2, 0), (1, 1)))])],
    "added_to_different_sums": lambda: residual(
        [gt.Residual([D(2)]), jnp.tanh], [gt.Residual([D(2)])]
    ),
}


def together(layers: Layers, mode: str, method: str = "kfac") -> str:
    """The cooperation of the first stage with several players."""
    net = gt.Network(layers)
    size: Any = getattr(net.player_ops[0].module, "kernel_size", ())
    params = net.param_shapes(jnp.zeros((1, *[4] * len(size), 2)))
    stages = enumerate(net.stages)
    place = next(StageIndex(s, t, len(net.stages)) for t, s in stages if len(s.players) > 1)
    own = {name: params[name] for name in place.stage.players}
    curvature: Any = joint.METHODS[method].curvature(mode)
    return type(
        curvature.stage_cooperation(curvature.kronecker_layouts(own, place), place)
    ).__name__


@pytest.mark.parametrize("name", SHARED)
def test_shared_input_is_recognized(name: str) -> None:
    layers = SHARED[name]
    assert together(layers(), "none") == "SeparatePlayers"
    assert together(layers(), "joint") == together(layers(), "joint", "ekfac") == "SharedInput"
    more = name in ("three", "sum_of_sums")
    assert together(layers(), "rescale") == ("Theorem3" if more else "SharedInput")
    if not more and name != "conv_grouped":
        assert together(layers(), "joint", "kfac_factored") == "TwoPlayerJoint"


@pytest.mark.parametrize("name", SEPARATE)
def test_other_players_do_not_share_input(name: str) -> None:
    layers = SEPARATE[name]
    assert together(layers(), "theorem3") == together(layers(), "rescale", "ekfac") == "Theorem3"
    assert together(layers(), "joint") == "TwoPlayerJoint"


def test_an_output_with_other_readers_is_not_only_a_summand() -> None:
    """Its adjoint has a second term, and differs from that of the sum."""
    t = TABLES["dense"]()
    for outputs, name in (((20,), "SharedInput"), ((20, 10), "Theorem3")):
        place = StageIndex(dataclasses.replace(t.stage, outputs=outputs), 0, 1)
        curvature: Any = joint.METHODS["kfac"].curvature("theorem3")
        found = curvature.stage_cooperation(curvature.kronecker_layouts(t.params, place), place)
        assert type(found).__name__ == name
