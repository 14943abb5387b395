"""The previous DDP optimizer against its dense definition, in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from gtddp_lab.studies.figures.batch_augmented import batch_augmented_step
from tests.sequential import oracle, zoo

pytestmark = pytest.mark.usefixtures("hostile")


def test_is_the_definition() -> None:
    """On a network with a player on a shortcut."""
    p, rate = zoo.problem("small", batch=3), 0.3
    loss = zoo.LOSSES["softmax"]

    @jax.jit
    def all_of() -> Any:
        def dense(coupling: str) -> Any:
            return gt.reference.ddp_step(
                p.net.stages, p.params, p.x, lambda o: loss(o, p.y),
                gt.reference.HESSIANS["exact"],
                gt.reference.preconditioned_gains(lambda t, q: rate * jnp.eye(q.size)),
                coupling=coupling,
            ).steps  # fmt: skip

        new = batch_augmented_step(p.net, loss, rate)(p.params, (p.x, p.y))
        return jax.tree.map(jnp.subtract, new, p.params), dense("batch"), dense("samples")

    got, want, apart = all_of()
    assert oracle.relative_error(got, want) < 1e-9
    assert oracle.relative_error(apart, want) > 1e-4  # its off-diagonal blocks matter
