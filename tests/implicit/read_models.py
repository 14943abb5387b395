"""Models that read their parameters in different ways, with what is expected of each.

Every model is `model(params, x) -> [B, 3]` in float64, as small as it can be.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BATCH = 6


class ReadModel(NamedTuple):
    """A model and what is read from it.

    Attributes:
        apply: the model.
        params: its parameters.
        inputs: a batch.
        reuses: whether the adjoints of all samples serve every weighted gradient.
        takes_part: the parameters that take part in a prediction; None for all.
    """

    apply: Any
    params: dict[str, Any]
    inputs: Any
    reuses: bool = True
    takes_part: tuple[str, ...] | None = None


def _arrays(**shapes: tuple[int, ...]) -> dict[str, Any]:
    # NumPy's, because float64 is not switched on yet when this file is imported.
    random = np.random.default_rng(1)
    return {name: 0.5 * random.standard_normal(shape) for name, shape in shapes.items()}


def _inputs(*shape: int) -> Any:
    return np.random.default_rng(2).standard_normal((BATCH, *shape))


def dense(p: Any, x: Any) -> Any:
    hidden = jnp.tanh(x @ p["a"] + p["b"])
    # A residual connection makes both axes of the square kernel run over the same index.
    hidden = hidden + jnp.tanh(hidden @ p["square"]) * p["scale"]
    return hidden @ p["head"]


def convolution(p: Any, x: Any) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(x, p["first"], (1, 1), "SAME", dimension_numbers=numbers)
    x = jax.nn.relu(x + p["bias"])
    mean = x.mean((1, 2), keepdims=True)
    x = (x - mean) * p["scale"]
    x = lax.conv_general_dilated(
        x, p["grouped"], (2, 2), "VALID", dimension_numbers=numbers, feature_group_count=2
    )
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")
    return x.reshape(x.shape[0], -1) @ p["head"]


def few_channels(p: Any, x: Any) -> Any:
    """Convolutions whose positions are cut too: strides, holes, uneven padding, other layouts."""
    x = lax.conv_general_dilated(
        x,
        p["holes"],
        (2, 1),
        ((1, 3), (0, 1)),
        rhs_dilation=(2, 1),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = jnp.tanh(x + p["bias"])
    x = jnp.einsum("bhwc,cd->bdhw", x, p["mix"])
    # One row: the second spatial axis is cut.
    x = x[:, :, 3:4]
    x = lax.conv_general_dilated(x, p["row"], (1, 1), "SAME")
    return jnp.tanh(x).reshape(x.shape[0], -1) @ p["head"]


def attention(p: Any, tokens: Any) -> Any:
    x = p["table"][tokens]
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x = (x - mean) * lax.rsqrt(variance + 1e-6) * p["scale"]
    q, k, v = jnp.einsum("btd,dchk->cbthk", x, p["qkv"])
    weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k))
    x = x + jnp.einsum("bhts,bshk,hkd->btd", weights, v, p["out"])
    # The same table once more, transposed.
    return (x[:, -1] @ p["table"].T)[:, :3]


def mapped(p: Any, x: Any) -> Any:
    return jax.vmap(lambda row: jnp.tanh(row @ p["a"] + p["b"]) @ p["head"])(x)


def samples_last(p: Any, x: Any) -> Any:
    hidden = jnp.tanh(p["a"].T @ x.T + p["b"][:, None])
    return (p["head"].T @ hidden).T


def merged_axes(p: Any, x: Any) -> Any:
    rows = x.reshape(-1, x.shape[-1])
    hidden = jnp.tanh(rows @ p["a"] + p["b"]).reshape(x.shape[0], -1)
    return hidden @ p["head"]


def columns_first(p: Any, x: Any) -> Any:
    """Reshapes that permute axes first, of data and of parameters."""
    rows = jnp.reshape(x, (x.shape[0], -1), order="F")
    hidden = jnp.tanh(rows @ jnp.reshape(p["a"], (6, 5), order="F"))
    return jnp.reshape(hidden.T, (-1, x.shape[0])).T @ p["head"]


def start_state(p: Any, x: Any) -> Any:
    start = jnp.broadcast_to(p["start"], (x.shape[0], p["start"].shape[0]))
    return jnp.concatenate([x, start], 1) @ p["head"] / p["divisor"]


def batch_norm(p: Any, x: Any) -> Any:
    hidden = x @ p["a"]
    hidden = (hidden - hidden.mean(0)) * (lax.rsqrt(hidden.var(0) + 1e-3) * p["scale"])
    return jnp.tanh(hidden) @ p["head"]


def recurrent(p: Any, x: Any) -> Any:
    def cell(state: Any, row: Any) -> Any:
        state = jnp.tanh(row @ p["a"] + state @ p["square"].T + p["b"])
        return state, None

    state, _ = lax.scan(cell, jnp.zeros((x.shape[0], p["a"].shape[1])), x.swapaxes(0, 1))
    return state @ p["head"]


def stacked_layers(p: Any, x: Any) -> Any:
    def layer(x: Any, of_layer: Any) -> Any:
        hidden = jnp.tanh(x @ of_layer["a"] + of_layer["b"])
        return x + hidden @ of_layer["c"].astype(x.dtype), hidden.sum(-1)

    x, sums = lax.scan(jax.checkpoint(layer), x, {key: p[key] for key in ("a", "b", "c")})
    return (x + sums.T) @ p["head"]


def stacked_convolutions(p: Any, x: Any) -> Any:
    def layer(x: Any, kernel: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return jnp.tanh(x * p["scale"]), None

    x, _ = lax.scan(layer, x, p["kernels"], reverse=True)
    return x.mean((1, 2)) @ p["head"]


def loop_in_a_loop(p: Any, x: Any) -> Any:
    """Layers in a loop, each of which is recurrent; all of them read the same table."""

    def layer(tokens: Any, of_layer: Any) -> Any:
        def cell(state: Any, token: Any) -> Any:
            row = p["table"][token]
            return jnp.tanh(row @ of_layer["a"] + state @ p["square"] + state), None

        start = jnp.zeros((tokens.shape[0], p["square"].shape[0]))
        state, _ = lax.scan(cell, start, tokens.T)
        return tokens, state

    _, states = lax.scan(layer, x, {"a": p["a"]})
    return states.sum(0) @ p["head"]


def start_in_a_loop(p: Any, x: Any) -> Any:
    """The carry starts as a parameter, which meets the samples outside of the loop."""

    def cell(state: Any, row: Any) -> Any:
        return jnp.tanh(row @ p["a"] + state), None

    def one(rows: Any) -> Any:
        return lax.scan(cell, p["start"], rows)[0]

    return jax.vmap(one)(x) @ p["head"]


def masked_in_a_loop(p: Any, x: Any) -> Any:
    """A kernel meets a constant first: the loop stays closed."""
    mask = jnp.tri(*p["a"].shape)

    def cell(state: Any, row: Any) -> Any:
        return jnp.tanh(row @ (p["a"] * mask) + state), None

    start = jnp.zeros((x.shape[0], p["a"].shape[1]))
    return lax.scan(cell, start, x.swapaxes(0, 1))[0] @ p["head"]


def kernel_in_a_loop(p: Any, x: Any) -> Any:
    def cell(state: Any, row: Any) -> Any:
        return _kernel(row, p["a"]) + 0.5 * state @ p["square"], None

    start = jnp.zeros((x.shape[0], p["a"].shape[1]))
    return lax.scan(cell, start, x.swapaxes(0, 1))[0] @ p["head"]


def coupled_in_a_loop(p: Any, x: Any) -> Any:
    def layer(x: Any, a: Any) -> Any:
        x = x @ a
        return jnp.tanh((x - x.mean(0)) * lax.rsqrt(x.var(0) + 1e-3)), None

    return lax.scan(layer, x, p["a"])[0] @ p["head"]


def branches(p: Any, x: Any) -> Any:
    hidden = lax.cond(x.shape[0] > 1, lambda: jnp.tanh(x @ p["a"]), lambda: x @ p["b"])
    hidden = lax.cond(p["a"].sum() > 0, lambda h: h @ p["head"], lambda h: -h @ p["head"], hidden)
    return hidden


def checkpointed(p: Any, x: Any) -> Any:
    return jax.checkpoint(lambda p, x: jnp.tanh(x @ p["a"]) @ p["head"])(p, x)


@jax.custom_vjp
def _kernel(x: Any, a: Any) -> Any:
    return jnp.tanh(x @ a)


def _kernel_forward(x: Any, a: Any) -> Any:
    y = _kernel(x, a)
    return y, (x, a, y)


def _kernel_backward(saved: Any, g: Any) -> Any:
    x, a, y = saved
    g = g * (1 - y * y)
    return g @ a.T, x.T @ g


_kernel.defvjp(_kernel_forward, _kernel_backward)


def opaque_kernel(p: Any, x: Any) -> Any:
    return _kernel(x, p["a"]) @ p["head"]


def weight_norm(p: Any, x: Any) -> Any:
    direction = p["a"] / jnp.linalg.norm(p["a"], axis=0)
    return jnp.tanh(x @ direction) @ p["head"]


def neighbours(p: Any, x: Any) -> Any:
    hidden = jnp.tanh(x @ p["a"])
    return (hidden + 0.5 * jnp.roll(hidden, 1, axis=0)) @ p["head"]


def late_coupling(p: Any, x: Any) -> Any:
    outputs = jnp.tanh(x @ p["a"]) @ p["head"]
    return outputs - 0.1 * outputs.mean(0)


def sample_parameters(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["a"] + p["own"]) @ p["head"]


MODELS = {
    "dense": ReadModel(
        dense, _arrays(a=(4, 5), b=(5,), square=(5, 5), scale=(5,), head=(5, 3)), _inputs(4)
    ),
    "convolution": ReadModel(
        convolution,
        _arrays(first=(3, 3, 2, 4), bias=(4,), scale=(4,), grouped=(2, 2, 2, 4), head=(16, 3)),
        _inputs(4, 4, 2),
    ),
    "few_channels": ReadModel(
        few_channels,
        _arrays(holes=(3, 2, 1, 1), bias=(1,), mix=(1, 2), row=(3, 2, 1, 2), head=(18, 3)),
        _inputs(11, 6, 1),
    ),
    "attention": ReadModel(
        attention,
        _arrays(table=(7, 4), scale=(4,), qkv=(4, 3, 2, 2), out=(2, 2, 4)),
        np.arange(BATCH * 3).reshape(BATCH, 3) % 7,
    ),
    "mapped": ReadModel(mapped, _arrays(a=(4, 5), b=(5,), head=(5, 3)), _inputs(4)),
    "samples_last": ReadModel(samples_last, _arrays(a=(4, 5), b=(5,), head=(5, 3)), _inputs(4)),
    "merged_axes": ReadModel(merged_axes, _arrays(a=(4, 5), b=(5,), head=(10, 3)), _inputs(2, 4)),
    "columns_first": ReadModel(columns_first, _arrays(a=(5, 6), head=(5, 3)), _inputs(2, 3)),
    "start_state": ReadModel(
        start_state,
        _arrays(start=(2,), head=(6, 3), divisor=(3,)),
        _inputs(4),
        takes_part=("start", "head"),
    ),
    "batch_norm": ReadModel(
        batch_norm,
        _arrays(a=(4, 5), scale=(5,), head=(5, 3)),
        _inputs(4),
        reuses=False,
        takes_part=("a", "head"),
    ),
    "recurrent": ReadModel(
        recurrent,
        _arrays(a=(4, 5), square=(5, 5), b=(5,), head=(5, 3)),
        _inputs(2, 4),
    ),
    "stacked_layers": ReadModel(
        stacked_layers,
        _arrays(a=(3, 3, 5), b=(3, 5), c=(3, 5, 3), head=(3, 3)),
        _inputs(3),
    ),
    "stacked_convolutions": ReadModel(
        stacked_convolutions,
        _arrays(kernels=(3, 2, 2, 4, 4), scale=(4,), head=(4, 3)),
        _inputs(3, 3, 4),
    ),
    "loop_in_a_loop": ReadModel(
        loop_in_a_loop,
        _arrays(table=(7, 4), a=(2, 4, 5), square=(5, 5), head=(5, 3)),
        np.arange(BATCH * 3).reshape(BATCH, 3) % 7,
    ),
    "start_in_a_loop": ReadModel(
        start_in_a_loop,
        _arrays(a=(4, 5), start=(5,), head=(5, 3)),
        _inputs(2, 4),
    ),
    "masked_in_a_loop": ReadModel(
        masked_in_a_loop,
        _arrays(a=(4, 5), head=(5, 3)),
        _inputs(2, 4),
        reuses=False,
        takes_part=("head",),
    ),
    "kernel_in_a_loop": ReadModel(
        kernel_in_a_loop,
        _arrays(a=(4, 5), square=(5, 5), head=(5, 3)),
        _inputs(2, 4),
        reuses=False,
        takes_part=("square", "head"),
    ),
    "coupled_in_a_loop": ReadModel(
        coupled_in_a_loop,
        _arrays(a=(2, 4, 4), head=(4, 3)),
        _inputs(4),
        reuses=False,
    ),
    "branches": ReadModel(
        branches,
        _arrays(a=(4, 5), b=(4, 5), head=(5, 3)),
        _inputs(4),
        reuses=False,
        takes_part=(),
    ),
    "checkpointed": ReadModel(checkpointed, _arrays(a=(4, 5), head=(5, 3)), _inputs(4)),
    "opaque_kernel": ReadModel(
        opaque_kernel,
        _arrays(a=(4, 5), head=(5, 3)),
        _inputs(4),
        reuses=False,
        takes_part=("head",),
    ),
    "weight_norm": ReadModel(
        weight_norm, _arrays(a=(4, 5), head=(5, 3)), _inputs(4), takes_part=("head",)
    ),
    "neighbours": ReadModel(neighbours, _arrays(a=(4, 5), head=(5, 3)), _inputs(4), reuses=False),
    "late_coupling": ReadModel(
        late_coupling, _arrays(a=(4, 5), head=(5, 3)), _inputs(4), reuses=False
    ),
    "sample_parameters": ReadModel(
        sample_parameters,
        _arrays(a=(4, 5), own=(BATCH, 5), head=(5, 3)),
        _inputs(4),
    ),
}


def read_model(name: str) -> ReadModel:
    """A model with its parameters and inputs as arrays of JAX."""
    model = MODELS[name]
    return model._replace(
        params=jax.tree.map(jnp.asarray, model.params), inputs=jnp.asarray(model.inputs)
    )
