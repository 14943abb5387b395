"""The factored value Hessian of a batch against its dense definition, in float64."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import gtddp_jax as gt
from gtddp_lab.studies.figures.value_hessian import ValueHessian, value_hessians
from tests.sequential import zoo

RATE = 0.4
SOFTMAX = zoo.LOSSES["softmax"]
pytestmark = pytest.mark.usefixtures("hostile")


def gains(curvature: str) -> Any:
    if curvature == "self_response":
        return gt.reference.stage_curvature_gains(lambda t: jnp.eye(SIZES[t]) / RATE)
    return gt.reference.preconditioned_gains(lambda t, q: RATE * jnp.eye(q.size))


SIZES: list[int] = []


@pytest.mark.slow
@pytest.mark.parametrize("curvature", ["base", "self_response"])
def test_is_the_batch_augmented_definition(curvature: str) -> None:
    """With shortcuts and two players in a stage; also for the blocks of single samples."""
    p = zoo.problem("small", batch=3)
    SIZES[:] = [
        ravel_pytree({name: p.params[name] for name in stage.players})[0].size
        for stage in p.net.stages
    ]

    @jax.jit
    def both() -> Any:
        def step(coupling: str) -> gt.reference.DenseStep:
            return gt.reference.ddp_step(
                p.net.stages, p.params, p.x, lambda o: SOFTMAX(o, p.y),
                gt.reference.HESSIANS["exact"], gains(curvature), coupling=coupling,
            )  # fmt: skip

        def ours(i: int | None) -> list[ValueHessian]:
            part = slice(None) if i is None else slice(i, i + 1)
            return value_hessians(
                p.net.stages, p.params, p.x[part], lambda o: SOFTMAX(o, p.y[part]), RATE,
                curvature=curvature, samples=3,
            )  # fmt: skip

        together, apart = step("batch"), step("samples")
        return (together.v_xx, together.feedback_gains), apart.v_xx, ours(None), ours(1)

    (want, feedback), blocks, got, alone = both()
    energies = []
    for t, found in enumerate(got):
        np.testing.assert_allclose(found.dense_matrix(), want[t][0], rtol=1e-9, atol=1e-14)
        n = want[t].shape[-1] // 3
        energy = np.square(want[t][0].reshape(3, n, 3, n)).sum((1, 3))
        np.testing.assert_allclose(found.block_energies(), energy, rtol=1e-9, atol=1e-18)
        share = energy.trace() / energy.sum()
        assert abs(found.diagonal_share() - share) < 1e-12
        energies.append(share)
        norms = np.sqrt(energy)
        pairs = [
            norms[i, j] / np.sqrt(norms[i, i] * norms[j, j])
            for i in range(3)
            for j in range(3)
            if i != j
        ]
        assert abs(found.sample_coupling() - np.mean(pairs)) < 1e-9
        if curvature == "base":  # the self-response couples the samples
            np.testing.assert_allclose(alone[t].dense_matrix(), blocks[t][1], rtol=1e-9, atol=1e-14)
    assert energies[-1] == 1 and min(energies) < 0.999
    for t, gain in enumerate(feedback[:1] if curvature == "self_response" else feedback):
        vector, share = got[t].leading_singular_vector()
        _, values, rows = np.linalg.svd(gain[0])
        if curvature == "base":
            assert abs(abs(vector.ravel() @ rows[0]) - 1) < 1e-9
            assert abs(share - values[0] ** 2 / (values**2).sum()) < 1e-9


def test_with_batch_normalisation() -> None:
    """Against Jacobians of whole batches, because the dynamics couple the samples."""
    net = gt.Network(
        [nn.Dense(3), nn.BatchNorm(), jnp.tanh, gt.Residual([nn.Dense(3)]), nn.Dense(2)]
    )
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray([0, 1, 1, 0])
    variables = zoo.cast(net.init_variables(jax.random.key(0), x), jnp.float64)
    params, stages = variables["params"], net.bind(variables["batch_stats"], train=True)

    def flat(states: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.concatenate([s.reshape(4, -1) for s in states], 1).ravel()

    @jax.jit
    def both() -> Any:
        loss = lambda o: optax.softmax_cross_entropy_with_integer_labels(o, y)  # noqa: E731
        trajectory: list[tuple[jax.Array, ...]] = [(x,)]
        for stage in stages:
            trajectory.append(stage(params, trajectory[-1]))
        outputs = trajectory[-1][0]
        size = outputs.size
        v = jax.hessian(lambda o: loss(o).mean())(outputs).reshape(size, size)
        want = [v]
        for stage, states in zip(stages[::-1], trajectory[-2::-1], strict=True):
            u, unravel = ravel_pytree({name: params[name] for name in stage.players})

            def tape(u: Any, x: jax.Array, stage: Any, states: Any, unravel: Any) -> jax.Array:
                widths = np.cumsum([s[0].size for s in states])[:-1]
                parts = jnp.split(x.reshape(4, -1), widths, axis=1)
                parts = tuple(a.reshape(b.shape) for a, b in zip(parts, states, strict=True))
                return flat(stage({**params, **unravel(u)}, parts))

            at = functools.partial(tape, stage=stage, states=states, unravel=unravel)
            f_u, f_x = jax.jacobian(at, argnums=(0, 1))(u, flat(states))
            q_ux = f_u.T @ v @ f_x
            v = f_x.T @ v @ f_x - RATE * q_ux.T @ q_ux
            want.insert(0, v)
        return want, value_hessians(stages, params, x, loss, RATE)

    want, got = both()
    for dense, found in zip(want, got, strict=True):
        np.testing.assert_allclose(found.dense_matrix(), dense, rtol=1e-9, atol=1e-14)
    assert got[0].diagonal_share() < 0.95


def test_unknown_names_are_listed() -> None:
    p = zoo.problem("small", batch=2)
    for name in ("hessian", "curvature"):
        with pytest.raises(ValueError, match=rf"Invalid {name}: 'other'\. Supported: "):
            wrong: dict[str, Any] = {name: "other"}
            value_hessians(p.net.stages, p.params, p.x, lambda o: SOFTMAX(o, p.y), RATE, **wrong)
