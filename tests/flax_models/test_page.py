"""The table of docs/bring_your_own_model.md is that of the zoo."""

from pathlib import Path

import jax
import numpy as np

import gtddp_jax as gt
from tests.flax_models import zoo

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bring_your_own_model.md"


def rows() -> list[str]:
    """The table as it should be."""
    found = []
    for name, spec in zoo.ZOO.items():
        inputs = spec.inputs(np.random.default_rng(0), 3)
        net = gt.from_flax(spec.make(), inputs, **spec.options)
        late = net.example.plan.late
        assert spec.nonlinear == (not late), name
        nonlinear = "yes" if spec.nonlinear else "no, shared weights"
        found.append(
            f"| {name} | {spec.what} | {len(net.players)} | {len(net.stages)} | {nonlinear} |"
        )
    return found


def test_the_page_shows_the_zoo() -> None:
    text = PAGE.read_text(encoding="utf-8")
    start = text.index("| model | what is in it |")
    table = text[start : text.index("\n\n", start)].splitlines()[2:]
    assert table == rows()


def test_every_parameter_is_claimed_once() -> None:
    for name, spec in zoo.ZOO.items():
        inputs = spec.inputs(np.random.default_rng(0), 2)
        net = gt.from_flax(spec.make(), inputs, **spec.options)
        claimed = [i for member in net.example.members for i in member.leaves]
        assert sorted(claimed) == list(range(len(net.model.paths))), name
        leaves = list(range(len(net.model.paths)))
        params = jax.tree.unflatten(net.model.structure, leaves)
        assert net.leaves(_split(net, params)) == leaves, name


def _split(net: gt.FlaxNetwork, params: object) -> dict[str, dict[str, int]]:
    leaves = jax.tree.leaves(params)
    return {
        m.name: {key: leaves[i] for key, i in zip(m.keys, m.leaves, strict=True)}
        for m in net.example.members
    }
