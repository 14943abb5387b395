"""The table of models in docs/bring_your_own_model.md lists the models of the zoo."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gtddp_jax as gt
from tests.flax_models import zoo

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bring_your_own_model.md"


def expected_rows() -> list[str]:
    """The rows of the table, from the networks themselves."""
    rows = []
    for name, spec in zoo.ZOO.items():
        inputs = spec.inputs(np.random.default_rng(0), 3)
        net = gt.from_flax(spec.make(), inputs, **spec.options)
        reused = net.example_trace.schedule.reused_players
        assert spec.nonlinear == (not reused), name
        nonlinear = "yes" if spec.nonlinear else "no, shared weights"
        rows.append(
            f"| {name} | {spec.contents} | {len(net.players)} | {len(net.stages)} | {nonlinear} |"
        )
    return rows


@pytest.mark.slow
def test_the_page_shows_the_zoo() -> None:
    text = PAGE.read_text(encoding="utf-8")
    start = text.index("| model | what is in it |")
    table = text[start : text.index("\n\n", start)].splitlines()[2:]
    assert table == expected_rows()


def test_every_parameter_has_one_player() -> None:
    for name, spec in zoo.ZOO.items():
        inputs = spec.inputs(np.random.default_rng(0), 2)
        net = gt.from_flax(spec.make(), inputs, **spec.options)
        owned = [leaf for player in net.example_trace.players for leaf in player.leaves]
        assert sorted(owned) == list(range(len(net.model.paths))), name
        leaves = list(range(len(net.model.paths)))
        players: Any = net.tracer.split_leaves(leaves)
        assert net.tracer.merge_leaves(players) == leaves, name
