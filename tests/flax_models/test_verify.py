"""`verify` holds for every model of the zoo: single gradients, the step, feedback off."""

import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from tests.flax_models import zoo

QUICK = ("perceptron", "resnet", "shared", "two_inputs")
MODELS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in zoo.ZOO]


@pytest.mark.parametrize("name", MODELS)
def test_the_zoo(name: str) -> None:
    p = zoo.problem(name)
    found = gt.verify(
        p.net, p.params, (p.inputs, None), batch_stats=p.batch_stats, rngs=p.rngs or None
    )
    assert found.ok, str(found)
    names = [check.name for check in found.checks]
    assert ("step, against the dense definition" in names) == (not p.spec.coupled)
    assert (found.checks[0].bound == jnp.inf) == p.spec.coupled
