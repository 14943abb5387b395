"""Steps of networks with cooperative stages against the dense definition, and Eq. 36-40."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from tests.curvature.kronecker import joint
from tests.default_run import quick_cases
from tests.sequential import oracle, zoo

Tree = Any


def placed(at: int) -> zoo.Spec:
    """Three stages; the second has two players, others act before and after it."""
    body = [nn.Dense(4), jnp.tanh, nn.Dense(3)]
    block = gt.Residual(body, nn.Dense(3), at=at)
    return zoo.Spec(lambda: [block, nn.Dense(2)] if at else [nn.Dense(3), jnp.tanh, block], (2,))


def placed_conv(at: int) -> zoo.Spec:
    """At 0 the trunk's outputs are larger than the shortcut's, at 1 they are of one size."""
    body = [zoo.conv(2, (1, 2)), jnp.tanh, zoo.conv(2, (2, 1), strides=(2, 1))]
    block = gt.Residual(body, zoo.conv(2, (1, 1), strides=(2, 1)), at=at)
    head = [] if at else [zoo.conv(1, (1, 1)), jnp.tanh]
    return zoo.Spec(lambda: [*head, block, zoo.flatten, *([nn.Dense(2)] * at)], (2, 2, 1))


SPECS = {
    "split": zoo.Spec(
        lambda: [
            nn.Dense(2),
            jnp.tanh,
            gt.split(nn.Dense(4), 3),
            jnp.tanh,
            nn.Dense(2),
        ],
        (2,),
    ),
    "branches": zoo.Spec(
        lambda: [
            gt.Parallel(
                [
                    zoo.conv(1, (1, 1)),
                    [zoo.conv(1, (2, 1)), jnp.tanh, zoo.conv(1, (1, 2))],
                    [
                        jnp.tanh,
                        zoo.conv(2, (1, 1), strides=2),
                        jnp.tanh,
                        zoo.flatten,
                        nn.Dense(2),
                        lambda x: x[:, None, None] * jnp.ones((1, 2, 2, 1)),
                    ],
                ],
                merge="concatenate",
            ),
            zoo.flatten,
            nn.Dense(2),
        ],
        (2, 2, 1),
    ),
    "at_0": placed(0),
    "at_1": placed(1),
    "conv_at_0": placed_conv(0),
    "conv_at_1": placed_conv(1),
    "shared_input": zoo.Spec(
        lambda: [
            nn.Dense(3),
            jnp.tanh,
            gt.Cooperative([nn.Dense(2), nn.Dense(2)]),
            jnp.tanh,
            nn.Dense(2),
        ],
        (2,),
    ),
}


def outputs(stage: gt.Stage, params: Tree, states: Any, shifts: dict[int, Any]) -> jax.Array:
    """The next states [B, N'] where the values of some players are shifted."""
    values = dict(zip(stage.inputs, states, strict=True))
    for op in stage.ops:
        value = op(params, *(values[v] for v in op.sources))
        values[op.target] = value + shifts[op.target] if op.target in shifts else value
    return side_by_side([values[v] for v in stage.outputs])


def side_by_side(states: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate([s.reshape(s.shape[0], -1) for s in states], axis=1)


def players(
    stage: gt.Stage, params: Tree, states: tuple[jax.Array, ...], v_x: jax.Array
) -> list[joint.Vectors]:
    """The vectors of a stage's players: b is `V_h = sigma_h^T V_x` of Eq. 43, v_x [B, N']."""
    values = stage.run(params, states)
    zeros = {
        player_op.target: jnp.zeros_like(values[player_op.target]) for player_op in stage.player_ops
    }
    _, pull = jax.vjp(lambda shifts: outputs(stage, params, states, shifts), zeros)
    (v_h,) = pull(v_x)
    return [
        joint.vectors(
            player_op.module,
            params[player_op.name],
            values[player_op.source],
            v_h[player_op.target],
        )
        for player_op in stage.player_ops
    ]


class Schur(NamedTuple):
    """What Eq. 40 needs of two players, without the rate.

    Attributes:
        own: Q_uu^-1 and Q_vv^-1.
        cross: Q_uv.
        inverse: Q~_uu^-1 and Q~_vv^-1.
    """

    own: tuple[jax.Array, jax.Array]
    cross: jax.Array
    inverse: tuple[jax.Array, jax.Array]

    def gains(self, columns: Sequence[jax.Array]) -> list[jax.Array]:
        """Eq. 40 for the parts of u and v of Q_w, Q_wx or Q_wx_r."""
        (u, v), cross = columns, self.cross
        return [
            -self.inverse[0] @ (u - cross @ self.own[1] @ v),
            -self.inverse[1] @ (v - cross.T @ self.own[0] @ u),
        ]


def schur(mode: str, pair: Sequence[joint.Vectors], own: Sequence[joint.Own]) -> Schur:
    """Eq. 36 and 38 by mode: the paper's reading of Theorem 3, and the Gauss-Newton block."""
    d = joint.damped(joint.joint(pair))
    c = joint.corrections(d, own)
    (a_uu, b_uu), (a_uv, b_uv), (a_vv, b_vv) = d.block(0, 0), d.block(0, 1), d.block(1, 1)
    inv, kron = jnp.linalg.inv, jnp.kron
    q_uu, q_uv, q_vv = kron(a_uu, b_uu), kron(a_uv, b_uv), kron(a_vv, b_vv)
    none = jnp.zeros_like(q_uv)
    if mode == "none":
        cross, inverses = none, (inv(q_uu), inv(q_vv))
    elif mode == "joint":
        cross = q_uv
        inverses = (inv(q_uu - q_uv @ inv(q_vv) @ q_uv.T), inv(q_vv - q_uv.T @ inv(q_uu) @ q_uv))
    else:
        cross = -q_uv if mode == "theorem3" else none
        inverses = (
            kron(inv(a_uu - a_uv @ inv(a_vv) @ a_uv.T), inv(b_uu - b_uv @ inv(b_vv) @ b_uv.T)),
            kron(inv(a_vv - a_uv.T @ inv(a_uu) @ a_uv), inv(b_vv - b_uv.T @ inv(b_uu) @ b_uv)),
        )
    return Schur(
        (own[0].inverse, own[1].inverse),
        inv(c[0]) @ cross @ inv(c[1]),
        (c[0] @ inverses[0] @ c[0], c[1] @ inverses[1] @ c[1]),
    )


class Stage(NamedTuple):
    """A cooperative stage of one dense step: Q_w, Q_wx, Q_wx_r and the reference's gains.

    Keys are "", "x" and "x_r"; columns of all samples side by side, [m, ...].
    """

    q: dict[str, jax.Array]
    gains: dict[str, jax.Array]


def opened(
    step: gt.reference.DenseStep, stage: gt.Stage, t: int, index: np.ndarray, states: Any
) -> Stage:
    """Takes stage t of a dense step apart; `index` orders parameters as `joint.flat`."""
    f_u = step.f_u[t][:, :, index]
    q_wx = jnp.einsum("bpm,bpq,bqn->mbn", f_u, step.v_xx[t + 1], step.f_x[t])
    big_k = step.feedback_gains[t][:, index].transpose(1, 0, 2)
    q = {"": jnp.einsum("bnm,bn->m", f_u, step.v_x[t + 1])[:, None]}
    gains = {"": step.open_gains[t][index][:, None]}
    ends = np.cumsum([x[0].size for x in states])[:-1]
    trunk = stage.inputs.index(stage.player_ops[0].source)
    for i, (a, b) in enumerate(
        zip(jnp.split(q_wx, ends, 2), jnp.split(big_k, ends, 2), strict=True)
    ):
        label = "x" if i == trunk else "x_r"
        q[label], gains[label] = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return Stage(q, gains)


def pairs(p: zoo.Problem, method: str, mode: str, params: Tree) -> tuple[Any, ...]:
    """One step by the library, its report, the dense step, V_xx's least eigenvalue, gains by name.

    Gains are triples: by the library, by the dense step, by Eq. 40.
    """
    rule, stages, batch = joint.METHODS[method], p.net.stages, p.x.shape[0]
    share_input = any(isinstance(layer, gt.Cooperative) for layer in p.net.layers)
    orders = [joint.order(p.params, stage.players) for stage in stages]
    recorder = joint.Recorder(rule.curvature(mode))
    loss = zoo.LOSSES["squared"]
    tx: Any = gt.gtddp(p.net, loss, recorder, terminal=gt.terminal.ProjectedHessian())
    updates, state = tx.update(None, tx.init(params), params, batch=(p.x, p.y))

    states: list[tuple[jax.Array, ...]] = [(p.x,)]
    for stage in stages:
        states.append(stage(params, states[-1]))
    formulas: dict[int, Schur] = {}

    def gains(t: int, q_u: jax.Array, own: Any, value: jax.Array) -> gt.reference.Gains:
        seen = players(stages[t], params, states[t], batch * value)
        each = [rule.own(v) for v in seen]
        closed = len(seen) > 1 and share_input and method != "kfac_factored"
        inverse = (
            joint.shared_input_inverse(mode, 2, each[0])
            if closed
            else joint.inverse(mode, seen, each)
        )
        if len(seen) == 2 and not closed:
            formulas[t] = schur(mode, seen, each)
        inverse = joint.RATE * joint.reordered(inverse, orders[t])
        return gt.reference.Gains(-inverse @ q_u, inverse, lambda closed: -inverse @ closed)

    step = gt.reference.ddp_step(
        stages,
        params,
        p.x,
        lambda outputs: loss(outputs, p.y),
        gt.reference.HESSIANS["projected"],
        gains,
        rollout="linear",
    )
    triples = {}
    for t, formula in formulas.items():
        names, policy = stages[t].players, recorder.policies[t]
        split = sum(leaf.size for leaf in jax.tree.leaves(params[names[0]]))
        stage = opened(step, stages[t], t, orders[t], states[t])
        q = jnp.concatenate(list(stage.q.values()), axis=1)
        wanted = joint.RATE * jnp.concatenate(formula.gains([q[:split], q[split:]]))
        ours = -joint.images(policy, params, names, q)
        ours = ours.at[:, 0].set(joint.flat(policy.open_gain, names))
        ends = np.cumsum([part.shape[1] for part in stage.q.values()])
        for label, end in zip(stage.q, ends, strict=True):
            dense = stage.gains[label]
            span = slice(end - dense.shape[1], end)
            for u, at in enumerate((slice(split), slice(split, None))):
                triples[GAINS[u, label]] = ours[at, span], dense[at], wanted[at, span]
    least = jnp.stack([jnp.linalg.eigvalsh(v).min() for v in step.v_xx]).min()
    return updates, state.report, step.steps, least, triples


GAINS = {
    (0, ""): "k~ (40a)",
    (0, "x"): "K~ (40b)",
    (0, "x_r"): "G~ (40c)",
    (1, ""): "l~ (40d)",
    (1, "x"): "H~ (40e)",
    (1, "x_r"): "L~ (40f)",
}
ALL = tuple((method, mode) for method in joint.METHODS for mode in joint.MODES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cases", "count"),
    [
        ("at_0", joint.FEW, 4),
        ("at_1", joint.FEW, 6),
        pytest.param("at_1", ALL, 6, marks=pytest.mark.slow),
        ("conv_at_0", joint.FEW[:2], 4),
        ("conv_at_1", joint.FEW[1:], 6),
        # Three players: in the second stage, and in the first one of two.
        ("split", tuple((method, "joint") for method in joint.METHODS), 0),
        ("branches", (("kfac", "joint"), ("ekfac", "joint")), 6),
        ("shared_input", (("kfac", "theorem3"), ("kfac", "joint"), ("ekfac", "rescale")), 0),
    ],
)
def test_steps_equal_the_dense_definition(name: str, cases: Any, count: int) -> None:
    """And all gains of the cooperative stage are those of Eq. 36-40, element by element.

    Where the shortcut's player acts at the split (at 0) there is no state x_r yet.
    """
    p = zoo.make(SPECS[name])

    @jax.jit
    def found(params: Tree) -> Any:
        return {(method, mode): pairs(p, method, mode, params) for method, mode in cases}

    for case, (updates, report, steps, smallest, gains) in found(p.params).items():
        assert not report.skipped
        assert smallest > -1e-12, f"{case}: the library clamps rho where V_xx turns negative"
        assert report.sample_weight_max - report.sample_weight_min > 0.005, case
        assert report.feedback_ratio.max() > 1e-3, case
        assert oracle.relative_error(updates, steps) < 1e-9, case
        assert len(gains) == count
        for label, (ours, dense, formula) in gains.items():
            assert joint.error(ours, formula) < 1e-9, (*case, label)
            assert joint.error(dense, formula) < 1e-9, (*case, label)


@pytest.mark.parametrize("mode", quick_cases(joint.MODES))
def test_scale_by_gt_ekfac_is_ekfac_without_rate_and_sign(mode: str) -> None:
    """Over three steps; its default is the paper's GT-EKFAC, `rescale`."""
    p, loss = zoo.make(SPECS["shared_input"], batch=3), zoo.LOSSES["squared"]
    options: Any = {} if mode == "rescale" else {"cooperative": mode}
    options |= {"factors_every": 2, "refresh_every": 2}
    scale: Any = gt.scale_by_gt_ekfac(p.net, loss, joint.GAMMA, **options)
    options |= {"cooperative": mode}
    base: Any = gt.ekfac(p.net, loss, joint.RATE, joint.GAMMA, equilibrium="open_loop", **options)
    chained: Any = optax.chain(scale, optax.scale_by_learning_rate(joint.RATE))

    @jax.jit
    def step(params: Tree, states: Any) -> Any:
        return [
            tx.update(None, state, params, batch=(p.x, p.y))
            for tx, state in zip((base, chained), states, strict=True)
        ]

    params, states = p.params, [tx.init(p.params) for tx in (base, chained)]
    for _ in range(3):
        (want, first), (got, second) = step(params, states)
        assert oracle.relative_error(got, want) < 1e-12
        params, states = jax.tree.map(jnp.add, params, want), [first, second]
