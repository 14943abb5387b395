"""`gt.verify` passes on every model of the zoo."""

import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from tests.flax_models import zoo


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "lstm", "vit", "shared", "scanned", "nnx"])
def test_models_of_the_zoo_pass(name: str) -> None:
    p = zoo.problem(name)
    verification = gt.verify(
        p.net, p.params, (p.inputs, None), batch_stats=p.batch_stats, rngs=p.rngs or None
    )
    assert verification.ok, str(verification)
    names = [check.name for check in verification.checks]
    assert ("step, against the dense definition" in names) == (not p.spec.coupled)
    assert (verification.checks[0].bound == jnp.inf) == p.spec.coupled
