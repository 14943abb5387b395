"""The cost rules are a matter of cost: every rule gives the same step."""

import re
from typing import Any

import jax
import pytest

import gtddp_jax as gt
from gtddp_jax.players import conv, rules
from tests.core import oracle, zoo

RULES = {"factored", "kept", "recomputed"}


def step(p: zoo.Problem, **options: Any) -> tuple[Any, Any]:
    tx: Any = gt.rmsprop(
        p.net, zoo.LOSSES["squared"], 0.03, eps=0.1, terminal=gt.terminal.projected(), **options
    )
    return jax.jit(lambda: tx.update(None, tx.init(p.params), p.params, batch=(p.x, p.y)))()


def rules_of(p: zoo.Problem) -> set[str]:
    return RULES & set(re.findall(r"\w+", p.net.explain(p.params, p.x)))


@pytest.mark.parametrize("name", [*zoo.SHAPED, "norms", "custom_module"])
def test_recomputed_equals_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = zoo.problem(name, batch=5)
    kept, state = step(p)
    assert "kept" in rules_of(p) and "recomputed" not in rules_of(p)
    assert state.report.weight_max - state.report.weight_min > 0.02
    monkeypatch.setattr(rules, "keep_limit", lambda x, g: 0)
    assert "recomputed" in rules_of(p) and "kept" not in rules_of(p)
    for chunk in (1, 2):  # one sample at a time; two, two and one
        monkeypatch.setattr(rules, "chunk_size", lambda count, limit, chunk=chunk: chunk)
        assert oracle.relative_error(step(p)[0], kept) < 1e-9


@pytest.mark.parametrize("rule", ["kept", "recomputed"])
def test_factored_equals_one_position(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """[B, 4] takes the factored rule, [B, 1, 4] of the same numbers another one."""
    p = zoo.problem("preactivation", batch=3)
    assert rules_of(p) == {"factored"}
    factored, _ = step(p)
    if rule == "recomputed":
        monkeypatch.setattr(rules, "keep_limit", lambda x, g: 0)
    row = zoo.Problem(p.net, p.params, p.x[:, None], p.y[:, None])
    assert rules_of(row) == {rule}
    assert oracle.relative_error(step(row)[0], factored) < 1e-9


@pytest.mark.parametrize("name", ["conv", "conv_grouped", "conv_1d"])
def test_chunks_of_a_convolution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five samples in chunks of one, and of two and a rest, give what all of them at once give."""
    p = zoo.problem(name, batch=5)
    whole, _ = step(p)
    calls: list[int] = []
    inner = conv._gradients

    def counting(module: Any, x: jax.Array, g: jax.Array) -> Any:
        calls.append(x.shape[0])
        return inner(module, x, g)

    monkeypatch.setattr(conv, "_gradients", counting)
    kernel = p.params["Conv_0"]["kernel"]
    patches = p.x[0].size * kernel[..., 0, 0].size
    for size in (1, 2 * patches):
        monkeypatch.setattr(conv, "WORKING_SET", {jax.default_backend(): size})
        calls.clear()
        assert oracle.relative_error(step(p)[0], whole) < 1e-9
        assert 1 in calls
