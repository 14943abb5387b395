"""Every rule for computing sums over samples gives the same step; they differ in cost only."""

import re
from typing import Any

import jax
import pytest

import gtddp_jax as gt
from gtddp_jax.core import xla
from gtddp_jax.network.sample_gradients import conv, layer_rules
from tests.default_run import quick_cases
from tests.sequential import oracle, zoo

RULES = {"factored", "kept", "recomputed"}


def step(problem: zoo.Problem, **options: Any) -> tuple[Any, Any]:
    tx: Any = gt.rmsprop(
        problem.net,
        zoo.LOSSES["squared"],
        0.03,
        eps=0.1,
        terminal=gt.terminal.ProjectedHessian(),
        **options,
    )
    return jax.jit(
        lambda: tx.update(
            None, tx.init(problem.params), problem.params, batch=(problem.x, problem.y)
        )
    )()


def rules_of(problem: zoo.Problem) -> set[str]:
    return RULES & set(re.findall(r"\w+", gt.explain(problem.net, problem.params, problem.x)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*zoo.SHAPED, "norms", "custom_module"])
def test_recomputed_equals_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = zoo.problem(name, batch=5)
    kept, state = step(problem)
    assert "kept" in rules_of(problem) and "recomputed" not in rules_of(problem)
    assert state.report.sample_weight_max - state.report.sample_weight_min > 0.02
    monkeypatch.setattr(layer_rules, "keep_limit", lambda x, g: 0)
    assert "recomputed" in rules_of(problem) and "kept" not in rules_of(problem)
    for chunk in (1, 2):  # one sample at a time; two, two and one
        monkeypatch.setattr(layer_rules, "chunk_size", lambda count, limit, chunk=chunk: chunk)
        assert oracle.relative_error(step(problem)[0], kept) < 1e-9


@pytest.mark.parametrize("rule", quick_cases(["kept", "recomputed"]))
def test_factored_equals_one_position(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs [B, 4] use the factored rule; the same numbers as [B, 1, 4] use another rule."""
    problem = zoo.problem("preactivation", batch=3)
    assert rules_of(problem) == {"factored"}
    factored, _ = step(problem)
    if rule == "recomputed":
        monkeypatch.setattr(layer_rules, "keep_limit", lambda x, g: 0)
    row = zoo.Problem(problem.net, problem.params, problem.x[:, None], problem.y[:, None])
    assert rules_of(row) == {rule}
    assert oracle.relative_error(step(row)[0], factored) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv", "conv_grouped", "conv_1d"])
def test_chunks_of_a_convolution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five samples in chunks of one or two (with a remainder) give the same step as one chunk."""
    problem = zoo.problem(name, batch=5)
    whole, _ = step(problem)
    calls: list[int] = []
    inner = conv._batch_gradients

    def counting(module: Any, x: jax.Array, g: jax.Array) -> Any:
        calls.append(x.shape[0])
        return inner(module, x, g)

    monkeypatch.setattr(conv, "_batch_gradients", counting)
    kernel = problem.params["Conv_0"]["kernel"]
    patches = problem.x[0].size * kernel[..., 0, 0].size
    for size in (1, 2 * patches):
        monkeypatch.setattr(xla, "CONV_CHUNK_NUMBERS", {jax.default_backend(): size})
        calls.clear()
        assert oracle.relative_error(step(problem)[0], whole) < 1e-9
        assert 1 in calls
