"""Damping of cooperating players: under a schedule, and far below the rounding of the factors."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from tests.curvature.kronecker import joint
from tests.default_run import quick_cases


def uncorrelated() -> joint.Table:
    """Two players of which one sees nothing where the other one does: A_uv = B_uv = 0."""
    t = joint.deal([(joint.plain(3), (2,)), (joint.plain(2), (4,))], batch=4)
    seen = {"u": np.array([1.0, 1, 0, 0]), "v": np.array([0.0, 0, 1, 1])}

    def hidden(values: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {n: jax.vmap(jnp.multiply)(jnp.asarray(seen[n]), v) for n, v in values.items()}

    return t._replace(data=t.data._replace(x=hidden(t.data.x), g=hidden(t.data.g)))


@pytest.mark.parametrize("form", quick_cases(["exact", "factored"]))
def test_players_without_companion_follow_a_schedule_between_refreshes(form: str) -> None:
    t = uncorrelated()

    @jax.jit
    def found(data: joint.Data) -> dict[str, jax.Array]:
        def second_step(mode: str, damping: Any) -> jax.Array:
            curvature = gt.curvature.KFAC(
                joint.RATE,
                damping,
                damping_form=form,
                cooperative=mode,
                factors_every=1,
                refresh_every=9,
            )
            first = joint.policy(curvature, t, data)
            return joint.dense(joint.policy(curvature, t, data, first.state), t)

        schedule = lambda count: joint.GAMMA / (1 + 4 * count)  # noqa: E731
        p = {mode: second_step(mode, schedule) for mode in joint.MODES}
        return p | {"fifth": second_step("none", joint.GAMMA / 5)}

    p = found(t.data)
    for mode in joint.MODES:
        assert joint.error(p[mode], p["fifth"]) < 1e-9, mode


@pytest.mark.slow
@pytest.mark.parametrize("form", quick_cases(["exact", "factored"]))
@pytest.mark.parametrize("players", [2, 3])
def test_little_damping_leaves_finite_numbers_in_float32(form: str, players: int) -> None:
    """Factors of rank 3 in 33 and 6 dimensions, as large as 1e6 times a damping of 1e-8."""
    seats = [(nn.Dense(6), (32,)), (nn.Dense(5), (32,)), (nn.Dense(4), (7,))]
    t = joint.deal(seats[:players], batch=3)
    data: Any = jax.tree.map(lambda v: (30 * v).astype(jnp.float32), t.data)
    t = t._replace(params=jax.tree.map(lambda v: v.astype(jnp.float32), t.params))

    @jax.jit
    def found(data: joint.Data) -> dict[str, Any]:
        gains = {}
        for mode in joint.MODES:
            curvature = gt.curvature.KFAC(0.1, 1e-8, damping_form=form, cooperative=mode)
            policy = joint.policy(curvature, t, data)
            gains[mode] = policy.open_gain, policy.quadratic_form()
        return gains

    for mode, gain in found(data).items():
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gain)), mode
