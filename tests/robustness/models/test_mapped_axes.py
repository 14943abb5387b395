"""Models that communicate over a mapped axis step as on one device with the whole batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from tests.conftest import RunPython
from tests.robustness.models.devices_script import CASES, LOSS, Normed, NormedNnx, X

Tree = Any


@pytest.mark.slow
def test_synchronized_normalization_on_four_devices(run_python: RunPython) -> None:
    result = run_python(
        "-W", "error", "-m", "tests.robustness.models.devices_script", devices=4, timeout=400
    )
    assert result.returncode == 0, result.stderr
    want = [f"{way}, {case}: equal" for case in CASES for way in ("by_pmap", "by_shard_map")]
    assert result.stdout.splitlines() == want


@pytest.mark.parametrize("make", [Normed, NormedNnx], ids=["linen", "nnx"])
def test_an_axis_that_is_not_named_is_refused(make: Callable[[str], Any]) -> None:
    with pytest.raises(gt.NetworkError) as error:
        gt.from_flax(make("batch"), X)
    assert "communicates over the mapped axis 'batch', as nn.BatchNorm" in str(error.value)
    assert "gt.from_flax(model, x, axis_name='batch')" in str(error.value)


def test_the_optimizer_names_the_same_axis() -> None:
    net = gt.from_flax(Normed("batch"), X, axis_name="batch")
    statistics = net.init_variables(jax.random.key(0), X)["batch_stats"]
    for axis_name in (None, "data"):
        with pytest.raises(gt.NetworkError, match=r"but gtddp has axis_name=.*as from_flax, or"):
            gt.adam(net, LOSS, 0.1, batch_stats=statistics, axis_name=axis_name)


def test_evaluation_needs_no_axis() -> None:
    kwargs: Any = {"eval_kwargs": {"train": False}, "axis_name": "batch"}
    net = gt.from_flax(Normed("batch"), X, **kwargs)
    variables: Any = net.init_variables(jax.random.key(0), X)
    got: Any = net.apply(variables["params"], X, batch_stats=variables["batch_stats"])
    want: Any = Normed(None).apply(variables, X, train=False)
    assert jnp.array_equal(got, want)


def test_names_that_are_wrong_in_the_model_stay_name_errors() -> None:
    class Broken(Normed):
        def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
            return undefined_name(x)  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(NameError, match="undefined_name"):
        gt.from_flax(Broken(None), X)
