"""Players with one input whose outputs are added (Fig. 7a, Cor. 7), and who counts as such."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.curvature.base import Place
from tests.core import oracle, zoo
from tests.kronecker import joint

EXACT = ("kfac", "ekfac")
Layers = list[Any]

TABLES = {
    "dense": lambda: joint.deal([(nn.Dense(2), (3,))] * 2, shared=True),
    "three": lambda: joint.deal([(nn.Dense(2), (2,))] * 3, shared=True),
    "conv": lambda: joint.deal([(zoo.conv(2, (2, 1), strides=2), (4, 2, 1))] * 2, shared=True),
}


@pytest.mark.parametrize("name", TABLES)
def test_twins_have_the_dense_joint_matrix(name: str) -> None:
    """Exact damping joins exactly; where it cannot, the joint factors do, though they are singular.

    Those are factored damping, and theorem3 and rescale of more than two players.
    """
    t = TABLES[name]()
    n = len(t.stage.acts)
    cases = [(m, mode) for m in joint.METHODS for mode in joint.MODES]
    if n > 2:
        cases.remove(("kfac_factored", "joint"))

    @functools.partial(jax.jit, compiler_options=oracle.FAST)
    def both(data: joint.Data) -> Any:
        players = t.vectors(data)
        samples = t.vectors(data._replace(alpha=jnp.ones_like(data.alpha)))
        each = jnp.concatenate([joint.gradients(v) for v in samples], axis=1)
        found = {}
        for method, mode in cases:
            rule = joint.METHODS[method]
            own = [rule.own(v) for v in players]
            closed = method in EXACT and (n == 2 or mode == "joint")
            p = joint.twins(mode, n, own[0]) if closed else joint.inverse(mode, players, own)
            ours = joint.policy(rule.curvature(mode), t, data)
            forms = jnp.einsum("bm,mn,bn->b", each, joint.RATE * p, each)
            got = joint.dense(ours, t), ours.quadratic({})
            found[method, mode] = got, (joint.RATE * p, forms)
        return found

    for case, (got, want) in both(t.data).items():
        for a, b in zip(got, want, strict=True):
            assert joint.error(a, b) < 1e-9, case
        np.testing.assert_allclose(got[0], got[0].T, rtol=1e-9, atol=1e-12, err_msg=str(case))
        assert np.linalg.eigvalsh(got[0]).min() > 0, case


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("method", EXACT)
def test_corollary_7(method: str, n: int) -> None:
    """Eigenvalues of P, and the open gain, which is made of equal gradients."""
    t = joint.deal([(nn.Dense(4), (3,))] * n, shared=True)
    rule = joint.METHODS[method]

    @functools.partial(jax.jit, compiler_options=oracle.FAST)
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

    @functools.partial(jax.jit, compiler_options=oracle.FAST)
    def both(params: Any) -> Any:
        def mean(params: Any) -> jax.Array:
            return loss(p.net.apply(params, p.x), p.y).mean()

        want = jax.tree.map(lambda g: -joint.RATE / joint.GAMMA * g, jax.grad(mean)(params))
        found = {}
        for method in EXACT:
            curvature = joint.METHODS[method].curvature("theorem3")
            tx: Any = gt.gtddp(p.net, loss, curvature, feedback=False)
            found[method], _ = tx.update(None, tx.init(params), params, batch=(p.x, p.y))
        return found, want

    found, want = both(p.params)
    for updates in found.values():
        assert oracle.relative_error(updates, want) < 1e-9


@pytest.mark.parametrize("method", EXACT)
def test_twins_may_be_wide(method: str) -> None:
    """Factors at low rank, which remember all vectors that there are, give the same P."""
    t = joint.deal([(nn.Dense(2), (5,))] * 2, shared=True)
    make = {"kfac": gt.curvature.kfac, "ekfac": gt.curvature.ekfac}[method]

    @functools.partial(jax.jit, compiler_options=oracle.FAST)
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
            assert policies[0].state.players["u"].left.vectors.shape == (1, 4, 6)
            found[mode] = [joint.dense(found, t) for found in policies]
        return found

    for mode, (got, want) in both(t.data).items():
        assert joint.error(got, want) < 1e-9, mode


def residual(body: Layers, shortcut: Layers, **options: Any) -> Layers:
    return [gt.Residual(body, shortcut, **options)]


D, C = nn.Dense, zoo.conv
TWINS: dict[str, Any] = {
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
STRANGERS: dict[str, Any] = {
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
    size: Any = getattr(net.acts[0].module, "kernel_size", ())
    params = zoo.shapes(net, jnp.zeros((1, *[4] * len(size), 2)))
    stages = enumerate(net.stages)
    place = next(Place(s, t, len(net.stages)) for t, s in stages if len(s.players) > 1)
    own = {name: params[name] for name in place.stage.players}
    curvature: Any = joint.METHODS[method].curvature(mode)
    return type(curvature.cooperation(curvature.layouts(own, place), place)).__name__


@pytest.mark.parametrize("name", TWINS)
def test_twins_are_found(name: str) -> None:
    layers = TWINS[name]
    assert together(layers(), "none") == "Separate"
    assert together(layers(), "joint") == together(layers(), "joint", "ekfac") == "Twins"
    more = name in ("three", "sum_of_sums")
    assert together(layers(), "rescale") == ("Theorem3" if more else "Twins")
    if not more and name != "conv_grouped":
        assert together(layers(), "joint", "kfac_factored") == "Paired"


@pytest.mark.parametrize("name", STRANGERS)
def test_others_are_not_twins(name: str) -> None:
    layers = STRANGERS[name]
    assert together(layers(), "theorem3") == together(layers(), "rescale", "ekfac") == "Theorem3"
    assert together(layers(), "joint") == "Paired"


def test_a_player_whose_output_lives_on_is_no_twin() -> None:
    """A sum is not all that follows from it, so its adjoint is another one."""
    t = TABLES["dense"]()
    for outputs, name in (((20,), "Twins"), ((20, 10), "Theorem3")):
        place = Place(dataclasses.replace(t.stage, outputs=outputs), 0, 1)
        curvature: Any = joint.METHODS["kfac"].curvature("theorem3")
        found = curvature.cooperation(curvature.layouts(t.params, place), place)
        assert type(found).__name__ == name
