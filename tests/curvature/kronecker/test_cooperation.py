"""Cooperative stages on made-up data: the library's P against the dense joint matrices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import block_diag

from tests.curvature.kronecker import joint
from tests.default_run import quick_cases
from tests.sequential import zoo


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_cases(joint.TABLES))
def test_stage_has_the_dense_joint_matrix(name: str) -> None:
    """P, the open gain -P Q_u and the forms G_i^T P G_i, in every mode of every method."""
    t = joint.TABLES[name]()
    cases = joint.cases()
    if name not in ("pair", "three", "averaged"):  # the others differ in their statistics
        cases = [case for case in joint.FEW if case in cases]

    @jax.jit
    def both(data: joint.Data) -> Any:
        players = t.vectors(data)
        samples = t.vectors(data._replace(alpha=jnp.ones_like(data.alpha)))
        each = jnp.concatenate([joint.gradients(v) for v in samples], axis=1)
        q = jnp.concatenate([joint.gradients(v).mean(0) for v in players])
        found = {}
        for method, mode in cases:
            rule = joint.METHODS[method]
            own = [rule.own(v) for v in players]
            p = joint.RATE * joint.inverse(mode, players, own)
            ours = joint.policy(rule.curvature(mode), t, data)
            gain = joint.flat(ours.open_gain, t.stage.players)
            got = joint.dense(ours, t), gain, ours.quadratic_form()
            found[method, mode] = got, (p, -p @ q, jnp.einsum("bm,mn,bn->b", each, p, each))
        return found

    for case, (got, want) in both(t.data).items():
        for a, b in zip(got, want, strict=True):
            assert joint.error(a, b) < 1e-9, case
        np.testing.assert_allclose(got[0], got[0].T, rtol=1e-9, atol=1e-12, err_msg=str(case))
        assert np.linalg.eigvalsh(got[0]).min() > 0, case


def schur(j: joint.Joint, u: int) -> tuple[list[jax.Array], list[jax.Array], list[int]]:
    """Of each factor: the inverse Schur complement of u, what stands beside it in the inverse.

    The others are one group v: `(A_uu - A_uv A_vv^-1 A_vu)^-1` and `-(...) A_uv A_vv^-1`. The last
    result are the players of the group.
    """
    others = [v for v in range(len(j.sizes)) if v != u]
    inverses, beside = [], []
    for side in (0, 1):
        uu = j.block(u, u)[side]
        uv = jnp.concatenate([j.block(u, v)[side] for v in others], axis=1)
        vv = jnp.block([[j.block(v, w)[side] for w in others] for v in others])
        inverses.append(jnp.linalg.inv(uu - uv @ jnp.linalg.inv(vv) @ uv.T))
        beside.append(-inverses[-1] @ uv @ jnp.linalg.inv(vv))
    return inverses, beside, others


@pytest.mark.parametrize("name", quick_cases(["pair", "three"]))
def test_theorem_3_block_by_block(name: str) -> None:
    """Eq. 16, 17, 51 and 54 with factored damping; the others of three players are one group."""
    t = joint.TABLES[name]()
    rule = joint.METHODS["kfac_factored"]

    @jax.jit
    def both(data: joint.Data) -> Any:
        d = joint.damped(joint.joint(t.vectors(data)))
        p = joint.dense(joint.policy(rule.curvature("theorem3"), t, data), t) / joint.RATE
        counts = [rows * columns for rows, columns in d.sizes]
        ends = np.cumsum([0, *counts])
        pairs = {}
        for u in range(len(counts)):
            inverses, beside, others = schur(d, u)
            at = slice(ends[u], ends[u + 1])
            pairs[f"Q~_{u}{u}^-1"] = p[at, at], jnp.kron(*inverses)
            first = np.zeros(2, int)  # where a player of the group stands in A_uv and B_uv
            for v in others:
                after = first + d.sizes[v]
                part = [m[:, i:j] for m, i, j in zip(beside, first, after, strict=True)]
                first = after
                pairs[f"P_{u}{v}"] = p[at, ends[v] : ends[v + 1]], jnp.kron(*part)
        if len(counts) == 2:  # Eq. 54: Q_uv = -A_uv (x) B_uv
            inverses, _, _ = schur(d, 0)
            q_uv, q_vv = -jnp.kron(*d.block(0, 1)), jnp.kron(*d.block(1, 1))
            want = -jnp.kron(*inverses) @ q_uv @ jnp.linalg.inv(q_vv)
            pairs["-Q~_uu^-1 Q_uv Q_vv^-1"] = p[: counts[0], counts[0] :], want
        return pairs

    pairs = both(t.data)
    assert len(pairs) == {2: 5, 3: 9}[len(t.stage.player_ops)]
    for label, (got, want) in pairs.items():
        assert joint.error(got, want) < 1e-9, label


@pytest.mark.parametrize("name", quick_cases(["pair", "averaged"]))
def test_joint_inverts_the_gauss_newton_block(name: str) -> None:
    """`P^-1 = C^-1 [[A'_uu (x) B'_uu, A_uv (x) B_uv], ...] C^-1`, C = I under factored damping.

    Its diagonal blocks are always the players' own.
    """
    t = joint.TABLES[name]()

    @jax.jit
    def both(data: joint.Data) -> Any:
        players = t.vectors(data)
        d = joint.damped(joint.joint(players))
        q = jnp.block([[jnp.kron(*d.block(u, v)) for v in (0, 1)] for u in (0, 1)])
        found = {}
        for label, rule in joint.METHODS.items():
            own = [rule.own(v) for v in players]
            c = jnp.linalg.inv(block_diag(*joint.corrections(d, own)))
            p = joint.dense(joint.policy(rule.curvature("joint"), t, data), t) / joint.RATE
            own_q = jnp.linalg.inv(block_diag(*[player.inverse for player in own]))
            found[label] = jnp.linalg.inv(p), c @ q @ c, own_q
        return found

    split = np.prod(t.params["u"]["kernel"].shape) + t.params["u"]["bias"].size
    for label, (got, want, own) in both(t.data).items():
        assert joint.error(got, want) < 1e-9, label
        for part in (slice(split), slice(split, None)):
            assert joint.error(got[part, part], own[part, part]) < 1e-9, label
        assert np.abs(got[:split, split:]).max() > 1e-2, label


STRANGERS = {
    "dense": lambda: joint.deal([(joint.plain(3), (2,)), (joint.plain(2), (4,))], batch=4),
    "conv": lambda: joint.deal(
        [
            (zoo.conv(2, (2, 2), use_bias=False), (4, 2, 1)),
            (zoo.conv(3, (1, 1), strides=2, use_bias=False), (4, 2, 2)),
        ],
        batch=4,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRANGERS)
def test_uncorrelated_players_act_alone(name: str) -> None:
    """Prop. 4 ii: A_uv = B_uv = 0, as u moves in the samples in which v does not.

    Where A_uv alone is 0 the true block has no Q_uv either; theorem3's own blocks stay corrected.
    """
    t = STRANGERS[name]()
    mask = {"u": np.array([1.0, 1, 0, 0]), "v": np.array([0.0, 0, 1, 1])}

    def hidden(values: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {n: jax.vmap(jnp.multiply)(jnp.asarray(mask[n]), v) for n, v in values.items()}

    data = t.data._replace(x=hidden(t.data.x))
    both = {"inputs": data, "all": data._replace(g=hidden(data.g))}

    @jax.jit
    def found(both: dict[str, joint.Data]) -> Any:
        def one(method: str, mode: str, data: joint.Data) -> jax.Array:
            return joint.dense(joint.policy(joint.METHODS[method].curvature(mode), t, data), t)

        return {
            (which, *case): one(*case, data)
            for which, data in both.items()
            for case in joint.cases()
            if which == "all" or case[1] != "rescale"
        }

    p = found(both)
    for (which, method, mode), got in p.items():
        difference = joint.error(got, p[which, method, "none"])
        if which == "all" or mode in ("none", "joint"):
            assert difference < 1e-9, (which, method, mode)
        else:
            assert difference > 1e-2, (which, method, mode)


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_cases(["pair", "three"]))
def test_order_of_players_does_not_matter(name: str) -> None:
    t = joint.TABLES[name]()
    stage = t.stage
    turned = t._replace(
        stage=dataclasses.replace(
            stage, ops=stage.ops[::-1], inputs=stage.inputs[::-1], outputs=stage.outputs[::-1]
        )
    )

    @jax.jit
    def both(data: joint.Data) -> Any:
        found = {}
        for method, mode in joint.cases():
            if method != "kfac" or mode == "none":
                continue
            curvature = joint.METHODS[method].curvature(mode)
            policies = [joint.policy(curvature, it, data) for it in (t, turned)]
            found[method, mode] = [(p.open_gain, p.quadratic_form()) for p in policies]
        return found

    for case, (one, other) in both(t.data).items():
        assert joint.error(one[1], other[1]) < 1e-9, case
        for player, tree in one[0].items():
            for leaf, got in tree.items():
                assert joint.error(got, other[0][player][leaf]) < 1e-9, case
