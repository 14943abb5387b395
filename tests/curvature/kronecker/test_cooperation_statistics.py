"""What joint factors are made of: batches, positions, devices; and what they refuse."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.curvature.kronecker import factor_statistics, operators
from tests.curvature.kronecker import joint
from tests.default_run import quick_cases
from tests.sequential import zoo

DECAY = 0.8


def joint_factors(state: Any) -> tuple[jax.Array, jax.Array]:
    """A_ww and B_ww of a stage's curvature state."""
    factors = state.factors.joint.joint_factors
    return factors.inputs.moment_matrix[0], factors.outputs.moment_matrix[0]


def running(first: joint.Vectors, second: joint.Vectors) -> joint.Vectors:
    """Vectors of two batches of one size with the moments of their running mean."""
    weights = np.sqrt(2 / (1 + DECAY) * np.array([DECAY, 1.0]))
    a, b = (
        jnp.concatenate([w * v for w, v in zip(weights, both, strict=True)])
        for both in ((first.a, second.a), (first.b, second.b))
    )
    return joint.Vectors(a, b, first.shape)


@pytest.mark.slow
@pytest.mark.parametrize("mode", quick_cases(joint.MODES[1:]))
def test_joint_factors_are_running_means(mode: str) -> None:
    """Over two batches, with a third one after which neither factors nor P are made anew."""
    t = joint.TABLES["averaged"]()
    later = [
        joint.deal([(player_op.module, x.shape[1:]) for player_op, x in _seats(t)], seed=i)
        for i in (1, 2)
    ]
    curvature = gt.curvature.KFAC(
        joint.RATE,
        joint.GAMMA,
        factor_decay=DECAY,
        factors_every=3,
        refresh_every=3,
        cooperative=mode,
    )
    every = gt.curvature.KFAC(
        joint.RATE, joint.GAMMA, factor_decay=DECAY, cooperative=mode, **joint.EVERY
    )

    @jax.jit
    def both(one: joint.Data, two: joint.Data, three: joint.Data) -> Any:
        first = joint.policy(every, t, one)
        second = joint.policy(every, t, two, first.state)
        third = joint.policy(curvature, t, three, second.state)
        players = [running(*vs) for vs in zip(t.vectors(one), t.vectors(two), strict=True)]
        own = [joint.METHODS["kfac"].own(v) for v in players]
        p = joint.RATE * joint.inverse(mode, players, own)
        want = joint.joint(players)
        return {
            "A_ww": (joint_factors(second.state)[0], want.a),
            "B_ww": (joint_factors(second.state)[1], want.b),
            "P": (joint.dense(second, t), p),
            "P of a step that keeps its bases": (joint.dense(third, t), p),
        }

    for label, (got, want) in both(t.data, later[0].data, later[1].data).items():
        assert joint.error(got, want) < 1e-9, label


def _seats(t: joint.Table) -> Any:
    return [(player_op, t.data.x[player_op.name]) for player_op in t.stage.player_ops]


@pytest.mark.parametrize("positions", quick_cases(factor_statistics.POSITION_MODES))
@pytest.mark.parametrize("name", quick_cases(["tokens", "paired", "averaged", "turned", "mixed"]))
def test_joint_factors_are_moments_and_positive_semi_definite(name: str, positions: str) -> None:
    """Also for the least favourable data: the same at every position, so that means lose nothing.

    One sample whose vectors are equal makes A_ww of rank one; a cross block that is any larger
    would turn an eigenvalue negative.
    """
    t = joint.TABLES[name]()
    curvature = gt.curvature.KFAC(
        joint.RATE, joint.GAMMA, cooperative="theorem3", positions=positions, **joint.EVERY
    )

    def flattened(v: jax.Array) -> jax.Array:
        return jnp.broadcast_to(v[:1].mean(range(1, v.ndim - 1), keepdims=True), v.shape)

    x, g = jax.tree.map(flattened, (t.data.x, t.data.g))
    datas = {"random": t.data, "flat": joint.Data(x, g, jnp.ones_like(t.data.alpha))}

    def seen(v: joint.Vectors) -> joint.Vectors:
        if positions == "expand":
            return v
        return joint.Vectors(v.a.mean(1, keepdims=True), v.b.sum(1, keepdims=True), ())

    @jax.jit
    def factors(datas: dict[str, joint.Data]) -> Any:
        found = {}
        for label, data in datas.items():
            want = joint.joint([seen(v) for v in t.vectors(data)])
            got = joint_factors(joint.policy(curvature, t, data).state)
            found[label] = (got[0], want.a), (got[1], want.b)
        return found

    for label, sides in factors(datas).items():
        for side, (factor, want) in zip("AB", sides, strict=True):
            assert joint.error(factor, want) < 1e-12, (label, side)
            values = np.linalg.eigvalsh(factor)
            assert values.min() > -1e-12 * values.max(), (label, side)
            if label == "flat" and side == "B":
                assert values[-2] < 1e-12 * values.max()


@pytest.mark.slow
@pytest.mark.parametrize("mode", quick_cases(["theorem3", "joint"]))
def test_samples_may_be_chunked_and_spread(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample at a time, and one sample on each of three devices, give the same policy."""
    t = joint.TABLES["averaged"]()
    curvature = joint.METHODS["ekfac"].curvature(mode)

    def policy(data: joint.Data, axis_name: Any = None) -> Any:
        found = joint.policy(curvature, t, data, axis_name=axis_name)
        return found.open_gain, joint_factors(found.state), found.quadratic_form()

    @jax.jit
    def whole(data: joint.Data) -> Any:
        return policy(data)

    @jax.jit
    def parts(data: joint.Data) -> Any:
        spread = jax.tree.map(lambda v: v[:, None], data)
        gain, factors, form = jax.vmap(functools.partial(policy, axis_name="d"), axis_name="d")(
            spread
        )
        one = jax.tree.map(lambda v: v[0], (gain, factors))
        return {"chunked": policy(data), "spread": (*one, form.ravel())}

    want = whole(t.data)
    monkeypatch.setattr(factor_statistics, "MAX_VECTOR_NUMBERS", 1)
    monkeypatch.setattr(operators, "MAX_GRADIENT_NUMBERS", 1)
    for label, got in parts(t.data).items():
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert joint.error(a, b) < 1e-9, label


GROUPED = zoo.conv(2, (1, 1), feature_group_count=2)
REFUSED: dict[str, Any] = {
    "grouped": (
        lambda: [gt.Residual([GROUPED, jnp.tanh], zoo.conv(2, (1, 1)))],
        (2, 2, 2),
        {},
        ("theorem3", "rescale", "joint"),
        r"\['Conv_0'\] are grouped convolutions.*cooperative='none'",
    ),
    "three large ones": (
        lambda: [gt.split(nn.Dense(64, use_bias=False), 3)],
        (65,),
        {},
        ("joint",),
        r"\['Dense_0', 'Dense_1', 'Dense_2'\] .* have 4160 parameters.*'theorem3'",
    ),
    "three large equal ones under factored damping": (
        lambda: [gt.Cooperative([joint.plain(22) for _ in range(3)])],
        (63,),
        {"damping_form": "factored"},
        ("joint",),
        "have 4158 parameters.*under exact damping",
    ),
    "wide": (
        lambda: [gt.Residual([nn.Dense(2), jnp.tanh], nn.Dense(2))],
        (5,),
        {"full_limit": 1, "window_rows": 4},
        ("theorem3", "rescale", "joint"),
        r"\['Dense_0', 'Dense_1'\] are wider than full_limit=1.*Raise full_limit",
    ),
}


@pytest.mark.parametrize("name", quick_cases(REFUSED))
def test_what_cannot_be_joined_is_refused(name: str) -> None:
    """When the state is made, not in the middle of a step; and `none` takes it."""
    layers, shape, options, modes, message = REFUSED[name]
    net = gt.Network(layers())
    params = jax.tree.map(
        lambda s: jnp.zeros(s.shape), net.param_shapes(jax.ShapeDtypeStruct((1, *shape), float))
    )

    def start(mode: str) -> None:
        gt.kfac(net, zoo.LOSSES["squared"], 0.1, cooperative=mode, **options).init(params)

    for mode in joint.MODES:
        if mode in modes:
            with pytest.raises(ValueError, match=message) as caught:
                start(mode)
            assert f"cooperative={mode!r}" in str(caught.value)
        else:
            start(mode)
