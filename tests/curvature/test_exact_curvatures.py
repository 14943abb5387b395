"""Every curvature, exactly, over several steps, so that momentum and statistics are not zero."""

import pytest

import gtddp_jax as gt
from gtddp_jax.sequential.rollout import ROLLOUTS
from tests.curvature.kronecker import formulas
from tests.curvature.soap.published import Options
from tests.curvature.soap.test_exact import curvature as published_soap
from tests.default_run import quick_cases
from tests.sequential import oracle, zoo
from tests.sequential.methods import METHODS


@pytest.mark.parametrize("name", quick_cases(METHODS, "sgd_schedule", "adamw"))
def test_curvature_equals_its_formula(name: str) -> None:
    games = {
        f"{terminal}, {rollout}": oracle.Game(
            "squared", METHODS[name], terminal, rollout, decay=0.1
        )
        for terminal, rollout in zip(("gradient", "projected"), ROLLOUTS, strict=True)
    }
    oracle.compare(zoo.problem("small"), games, steps=3)


def test_every_curvature_has_a_formula() -> None:
    """Kronecker curvatures and SOAP have theirs in `tests/curvature/`, beside their tests."""
    covered = {type(method.curvature) for method in METHODS.values()}
    covered |= {type(formulas.curvature(formulas.Formula(kind))) for kind in formulas.LIBRARY}
    covered.add(type(published_soap(Options())))
    assert covered == set(gt.curvature.CURVATURES.values())
