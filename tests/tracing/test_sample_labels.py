"""Operations that keep samples apart, and operations that mix them, against their Jacobians."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gtddp_jax.tracing.axis_labels import AxisLabels
from gtddp_jax.tracing.sample_labels import SampleLabels
from gtddp_jax.tracing.traced_program import trace_program

BATCH = 4
IMAGE = ("NHWC", "HWIO", "NHWC")

SEPARATE: dict[str, Callable[[Any], Any]] = {
    "elementwise": lambda x: jnp.where(x > 0, jnp.tanh(x), x**2),
    "broadcast": lambda x: x * jnp.arange(4.0) + x.sum(1, keepdims=True),
    "merged_and_split": lambda x: x.reshape(BATCH * 2, 2).reshape(2, 2, 4).reshape(BATCH, 4),
    "columns_first": lambda x: jnp.reshape(x, (BATCH, 2, 2), order="F").sum(2),
    "split_feature": lambda x: x.reshape(BATCH, 2, 2).transpose(2, 0, 1).max(0),
    "samples_last": lambda x: (jnp.eye(4)[:3] @ x.T).T,
    "product_of_samples": lambda x: jnp.einsum("bi,bj->bij", x, x).reshape(BATCH, -1),
    "softmax": lambda x: jax.nn.log_softmax(x) - jax.nn.logsumexp(x, axis=1, keepdims=True),
    "sorted_features": lambda x: jnp.sort(x, axis=1)[:, ::-1],
    "running_features": lambda x: jnp.cumsum(x, axis=1),
    "largest": lambda x: lax.top_k(x, 2)[0],
    "padded": lambda x: jnp.concatenate([jnp.pad(x, ((0, 0), (1, 2))), x[:, 1:3]], 1),
    "halves": lambda x: jnp.multiply(*jnp.split(x, 2, axis=1)),
    "picked": lambda x: jnp.take_along_axis(x, jnp.argmax(x, 1)[:, None], axis=1),
    "embedded": lambda x: x[:, jnp.array([2, 0])],
    "updated": lambda x: lax.dynamic_update_slice(x, 2 * x[:, :2], (0, 1)),
    "convolution": lambda x: lax.conv_general_dilated(
        x.reshape(BATCH, 2, 2, 1), jnp.ones((2, 2, 1, 3)), (1, 1), "SAME", dimension_numbers=IMAGE
    ),
    "pooled": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 2), "VALID"),
    "mapped": jax.vmap(lambda row: jnp.outer(row, row).sum(0)),
    "scanned": lambda x: lax.scan(lambda c, r: (c + r, c * r), x[:, 0], x.T)[1].T,
    "branches": lambda x: lax.cond(jnp.arange(3).sum() > 1, jnp.sin, jnp.cos, x),
    "repeated": lambda x: lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x)
    )[1],
    "custom_rule": jax.nn.relu,
}

MIXING: dict[str, Callable[[Any], Any]] = {
    "mean": lambda x: x - x.mean(0),
    "rolled": lambda x: x + jnp.roll(x, 1, axis=0),
    "reversed": lambda x: x * x[::-1],
    "running": lambda x: jnp.cumsum(x, axis=0),
    "attention": lambda x: jax.nn.softmax(x @ x.T) @ x,
    "transposed": lambda x: x + x.T,
    "columns_first": lambda x: jnp.reshape(x, (2, 8), order="F").reshape(BATCH, 4) + x,
    "permuted": lambda x: x + x[jnp.array([1, 0, 3, 2])],
    "sorted": lambda x: jnp.sort(x, axis=0) + x,
    "interleaved": lambda x: x.reshape(2, BATCH // 2, 4).transpose(1, 0, 2).reshape(BATCH, 4) + x,
    "scanned": lambda x: lax.scan(lambda c, r: (c + r, c * r), x[0], x)[1],
    "convolution": lambda x: lax.conv_general_dilated(
        x[None, :, :, None], jnp.ones((3, 1, 1, 1)), (1, 1), "SAME", dimension_numbers=IMAGE
    )[0, :, :, 0],
    "in_branch": lambda x: lax.cond(jnp.arange(3).sum() > 1, lambda x: x - x.sum(0), jnp.cos, x),
}


def keeps_apart(function: Callable[[Any], Any]) -> bool:
    """Whether the labels follow the samples from the outputs to the data, without a coupling."""
    x = jnp.zeros((BATCH, 4))
    # A parameter of ones, so that the data are a constant of the program.
    program = trace_program(lambda params: function(params * x), {}, params=jnp.ones(()))
    (output,) = (atom for atom in program.outputs if isinstance(atom, int))
    samples = SampleLabels(program, [output])
    data = next(equation.outputs[0] for equation in program.equations if equation.name == "mul")
    return samples.is_per_sample(data) and not samples.coupling_equations


def jacobian_couples(function: Callable[[Any], Any]) -> bool:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((BATCH, 4)))
    jacobian = jax.jacfwd(function)(x).reshape(BATCH, -1, BATCH, 4)
    return any(
        bool(jnp.any(jacobian[i, :, j] != 0)) for i in range(BATCH) for j in range(BATCH) if i != j
    )


@pytest.fixture(autouse=True)
def promoted_ranks() -> Any:
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", sorted(SEPARATE))
def test_separate_samples_are_recognised(name: str) -> None:
    assert not jacobian_couples(SEPARATE[name])
    assert keeps_apart(SEPARATE[name])


@pytest.mark.parametrize("name", sorted(MIXING))
def test_mixed_samples_are_recognised(name: str) -> None:
    assert jacobian_couples(MIXING[name])
    assert not keeps_apart(MIXING[name])


def test_axes_are_paired_from_both_ends() -> None:
    labels = AxisLabels()
    before, after = labels.new_axes((2, 6, 4, 5)), labels.new_axes((2, 8, 3, 5))
    assert not labels.unify(sum(before, ()), sum(after, ()))
    assert labels.resolve(before[0]) == labels.resolve(after[0])
    assert labels.resolve(before[3]) == labels.resolve(after[3])
    assert labels.resolve(before[1]) != labels.resolve(after[1])


def test_merged_axis_is_the_product_of_its_parts() -> None:
    labels = AxisLabels()
    batch, time, merged = labels.new_axes((6, 4, 24))
    assert labels.unify(batch + time, merged)
    assert labels.resolve(merged) == labels.resolve(batch + time)
    # A later split of the first part splits the merged axis too.
    first, second = labels.new_axes((2, 3))
    assert labels.unify(first + second, batch)
    assert labels.resolve(merged) == labels.resolve(first + second + time)
