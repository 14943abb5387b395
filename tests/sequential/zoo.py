"""Tables of tiny networks and losses, by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_jax.network.modes import FRESH_MODE, BatchNormOp, bind_stages
from gtddp_jax.network.program import PlayerOp

Tree = Any


class Gate(nn.Module):
    """A custom module that reads one of its parameters twice."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.normal(1.0), (x.shape[-1],))
        bend = self.param("bend", nn.initializers.ones, ())
        scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
        return scale * x + jnp.tanh(bend * scale * jnp.square(x))


def flatten(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def pool(x: jax.Array) -> jax.Array:
    return x.mean(range(1, x.ndim - 1))


def conv(features: int, size: int | tuple[int, ...] = (3, 3), **options: Any) -> nn.Conv:
    return nn.Conv(features, (size,) if isinstance(size, int) else size, **options)


class Spec(NamedTuple):
    """A network.

    Attributes:
        layers: builds its layers.
        shape: the shape of one input.
        rate: a learning rate at which sample weights differ clearly while rho stays below 1.
    """

    layers: Callable[[], list[Any]]
    shape: tuple[int, ...] = (4,)
    rate: float = 0.3


def _placed(at: int, *, long: bool = False) -> Spec:
    def layers() -> list[Any]:
        body = [nn.Dense(5), jnp.tanh, nn.Dense(4), jnp.tanh, nn.Dense(4)]
        shortcut = [jnp.tanh, nn.Dense(2), jnp.tanh, nn.Dense(4)] if long else nn.Dense(4)
        return [nn.Dense(3), jnp.tanh, gt.Residual(body, shortcut, at=at), jnp.tanh, nn.Dense(3)]

    return Spec(layers)


def _block(*, width: int = 4, before: bool = False) -> gt.Residual:
    head = [jnp.tanh] if before else []
    return gt.Residual([*head, nn.Dense(width), jnp.tanh, nn.Dense(width)])


FLAT: dict[str, Spec] = {
    "tiny": Spec(lambda: [gt.Residual([nn.Dense(3), jnp.tanh], nn.Dense(3)), nn.Dense(2)]),
    "small": Spec(
        lambda: [
            nn.Dense(3),
            jnp.tanh,
            gt.Residual([nn.Dense(3), jnp.tanh], nn.Dense(3)),
            nn.Dense(2),
        ]
    ),
    "feedforward": Spec(
        lambda: [
            nn.Dense(4),
            jnp.tanh,
            nn.Dense(5),
            nn.softplus,
            nn.Dense(4),
            jnp.tanh,
            nn.Dense(3),
        ]
    ),
    "square": Spec(
        lambda: [
            gt.Residual([nn.Dense(4, use_bias=False), jnp.tanh]),
            nn.Dense(4, use_bias=False),
        ]
    ),
    "no_bias": Spec(lambda: [nn.Dense(4, use_bias=False), jnp.tanh, nn.Dense(3, use_bias=False)]),
    "identity": Spec(lambda: [nn.Dense(4), jnp.tanh, _block(), jnp.tanh, nn.Dense(3)]),
    "long_block": Spec(
        lambda: [
            nn.Dense(4),
            jnp.tanh,
            gt.Residual([nn.Dense(4), jnp.tanh, nn.Dense(4), jnp.tanh, nn.Dense(4)]),
            nn.Dense(3),
        ],
        rate=0.1,
    ),
    "identity_at_input": Spec(lambda: [_block(), jnp.tanh, nn.Dense(3)]),
    "shortcut_at_0": _placed(0),
    "shortcut_at_1": _placed(1),
    "shortcut_at_2": _placed(2),
    "shortcut_at_input": Spec(
        lambda: [
            gt.Residual([nn.Dense(5), jnp.tanh, nn.Dense(4)], nn.Dense(4), at=1),
            jnp.tanh,
            nn.Dense(3),
        ]
    ),
    "long_shortcut_at_0": _placed(0, long=True),
    "long_shortcut_at_1": _placed(1, long=True),
    "function_on_shortcut": Spec(
        lambda: [
            nn.Dense(4),
            gt.Residual([nn.Dense(4), jnp.tanh, nn.Dense(4)], jnp.tanh, at=1),
            nn.Dense(3),
        ],
        rate=0.1,
    ),
    "block_on_shortcut": Spec(
        lambda: [
            nn.Dense(4),
            jnp.tanh,
            gt.Residual([nn.Dense(4), jnp.tanh, nn.Dense(4)], [_block(), jnp.tanh]),
            nn.Dense(3),
        ],
        rate=0.1,
    ),
    "chained": Spec(
        lambda: [nn.Dense(4), jnp.tanh, _block(), jnp.tanh, _block(), jnp.tanh, nn.Dense(3)]
    ),
    "nested": Spec(
        lambda: [
            nn.Dense(4),
            jnp.tanh,
            gt.Residual(
                [nn.Dense(4), jnp.tanh, _block(), jnp.tanh, nn.Dense(4)], nn.Dense(4), at=2
            ),
            nn.Dense(3),
        ],
        rate=0.1,
    ),
    "nested_at_both_ends": Spec(
        lambda: [
            nn.Dense(4),
            jnp.tanh,
            gt.Residual([gt.Residual([gt.Residual([nn.Dense(4), jnp.tanh]), nn.Dense(4)])]),
            nn.Dense(3),
        ],
        rate=0.03,
    ),
    "cooperative": Spec(
        lambda: [
            nn.Dense(4),
            jnp.tanh,
            gt.Cooperative([nn.Dense(4), nn.Dense(4, use_bias=False)]),
            jnp.tanh,
            nn.Dense(3),
        ]
    ),
    "cooperative_of_three": Spec(
        lambda: [
            gt.Cooperative([nn.Dense(4), nn.Dense(4), Gate()]),
            jnp.tanh,
            gt.Residual([gt.Cooperative([nn.Dense(4), nn.Dense(4), nn.Dense(4)])]),
            nn.Dense(3),
        ],
        rate=0.1,
    ),
    "parallel": Spec(
        lambda: [
            nn.Dense(4),
            jnp.tanh,
            gt.Parallel(
                [nn.Dense(2), [nn.Dense(3), jnp.tanh, nn.Dense(2)], [jnp.tanh, nn.Dense(3)], []],
                merge="concatenate",
            ),
            jnp.tanh,
            nn.Dense(3),
        ]
    ),
    "parallel_blocks": Spec(
        lambda: [
            gt.Residual(
                [
                    nn.Dense(4),
                    gt.Parallel([[_block(), jnp.tanh], gt.Cooperative([nn.Dense(4), Gate()])]),
                    jnp.tanh,
                ]
            ),
            nn.Dense(3),
        ],
        rate=0.1,
    ),
    "split": Spec(
        lambda: [
            gt.split(nn.Dense(5), 3),
            jnp.tanh,
            gt.Residual([gt.split(nn.Dense(5, use_bias=False), 2), jnp.tanh], nn.Dense(5)),
            gt.split(nn.Dense(3), 2),
        ],
        rate=0.1,
    ),
    "preactivation": Spec(
        lambda: [nn.Dense(4), _block(before=True), _block(before=True), jnp.tanh, nn.Dense(3)]
    ),
    "norms": Spec(
        lambda: [
            nn.Dense(4),
            nn.LayerNorm(),
            gt.Residual([nn.LayerNorm(), jnp.tanh, nn.Dense(4)]),
            nn.Dense(3),
        ],
        rate=0.1,
    ),
    "group_norm": Spec(
        lambda: [
            nn.Dense(4),
            nn.GroupNorm(num_groups=2),
            gt.Residual([nn.GroupNorm(num_groups=None, group_size=2), jnp.tanh, nn.Dense(4)]),
            nn.Dense(3),
        ],
        rate=0.1,
    ),
    "custom_module": Spec(
        lambda: [nn.Dense(4), gt.Residual([Gate(), nn.Dense(4)]), Gate(), nn.Dense(3)],
        rate=0.1,
    ),
}
"""Networks on inputs [B, 4]."""

SHAPED: dict[str, Spec] = {
    "conv": Spec(
        lambda: [
            conv(3),
            jnp.tanh,
            gt.Residual([conv(3), jnp.tanh, conv(3)]),
            jnp.tanh,
            flatten,
            nn.Dense(3),
        ],
        (4, 4, 2),
        rate=0.05,
    ),
    "conv_small": Spec(
        lambda: [
            gt.Residual([conv(2, (2, 2), strides=2), jnp.tanh], conv(2, (1, 1), strides=2)),
            flatten,
            nn.Dense(2),
        ],
        (4, 4, 2),
        rate=0.1,
    ),
    "conv_strided": Spec(
        lambda: [
            gt.Residual(
                [conv(3, strides=2), jnp.tanh, conv(4)], conv(4, (1, 1), strides=(2, 2)), at=1
            ),
            jnp.tanh,
            conv(4, (2, 2), padding="VALID"),
            pool,
            nn.Dense(3),
        ],
        (4, 4, 2),
        rate=0.2,
    ),
    "conv_grouped": Spec(
        lambda: [
            conv(4, (3, 2), padding=((1, 2), (0, 1)), use_bias=False),
            jnp.tanh,
            conv(2, (2, 2), kernel_dilation=2, padding="VALID", feature_group_count=2),
            pool,
            nn.Dense(3),
        ],
        (4, 4, 2),
    ),
    "inception": Spec(
        lambda: [
            gt.Parallel(
                [
                    conv(2, (1, 1)),
                    [conv(2, (1, 1)), jnp.tanh, conv(2)],
                    [lambda x: nn.max_pool(x, (2, 2), padding="SAME"), conv(1, (1, 1))],
                ],
                merge="concatenate",
            ),
            jnp.tanh,
            pool,
            nn.Dense(3),
        ],
        (4, 4, 2),
    ),
    "split_conv": Spec(
        lambda: [
            gt.split(conv(3, (2, 2), strides=2), 2),
            jnp.tanh,
            gt.Parallel([gt.split(conv(4), 3), [jnp.tanh, conv(2, (1, 1))]], merge="concatenate"),
            jnp.tanh,
            pool,
            nn.Dense(3),
        ],
        (4, 4, 2),
    ),
    "conv_1d": Spec(
        lambda: [
            conv(3, 3),
            jnp.tanh,
            gt.Residual([conv(3, 3, strides=1), jnp.tanh, conv(3, 2)]),
            pool,
            nn.Dense(3),
        ],
        (5, 2),
    ),
    "tokens": Spec(
        lambda: [nn.Dense(4), jnp.tanh, gt.Residual([nn.Dense(4), jnp.tanh]), pool, nn.Dense(3)],
        (3, 2),
    ),
    "tokens_out": Spec(
        lambda: [nn.Dense(4), jnp.tanh, gt.Residual([nn.Dense(4), jnp.tanh]), nn.Dense(3)], (2, 2)
    ),
}
"""Networks on inputs with positions; `tokens_out` has outputs [B, 2, 3]."""

NETS: dict[str, Spec] = FLAT | SHAPED

COUPLED: dict[str, Spec] = {
    "batch_norm": Spec(
        lambda: [
            nn.Dense(4),
            nn.BatchNorm(momentum=0.8),
            jnp.tanh,
            gt.Residual(
                [nn.Dense(4, use_bias=False), nn.BatchNorm(use_scale=False), jnp.tanh, nn.Dense(4)],
                [nn.Dense(4), nn.BatchNorm(use_bias=False, epsilon=1e-3)],
                at=1,
            ),
            nn.BatchNorm(use_scale=False, use_bias=False, use_fast_variance=False),
            nn.Dense(3),
        ],
        rate=0.02,
    ),
    "batch_norm_first": Spec(
        lambda: [nn.BatchNorm(), gt.Residual([nn.BatchNorm(), jnp.tanh, nn.Dense(4)]), nn.Dense(3)],
        rate=0.05,
    ),
    "batch_norm_conv": Spec(
        lambda: [
            conv(3, use_bias=False),
            nn.BatchNorm(),
            jnp.tanh,
            gt.Residual([conv(3, use_bias=False), nn.BatchNorm(), jnp.tanh, conv(3)]),
            pool,
            nn.Dense(3),
        ],
        (3, 3, 2),
        rate=0.05,
    ),
}
"""Networks with batch normalization, which couples samples."""


def _residual_loss(f: Callable[[jax.Array], jax.Array]) -> Callable[[Any, Any], jax.Array]:
    return lambda outputs, y: f(outputs - y).sum(range(1, outputs.ndim))


LOSSES: dict[str, Callable[[Any, Any], jax.Array]] = {
    "squared": _residual_loss(lambda r: 0.5 * jnp.square(r)),
    "softmax": lambda outputs, y: optax.softmax_cross_entropy(outputs, nn.softmax(3 * y)),
    "logistic": lambda o, y: optax.sigmoid_binary_cross_entropy(o, nn.sigmoid(y)).sum(-1),
    "pseudo_huber": _residual_loss(lambda r: jnp.sqrt(1 + jnp.square(2 * r)) - 1),
    "welsch": _residual_loss(lambda r: 1 - jnp.exp(-0.5 * jnp.square(r))),
}
"""Losses of outputs and real targets of one shape, [B] each; `welsch` is not convex."""


class Problem(NamedTuple):
    """A network with float64 parameters, one batch, and running statistics if it has any."""

    net: gt.Network
    params: Tree
    x: jax.Array
    y: jax.Array
    batch_stats: Tree = None


def cast(tree: Tree, dtype: Any) -> Tree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def variable_shapes(net: gt.Network, x: jax.Array | jax.ShapeDtypeStruct) -> tuple[Tree, Tree]:
    """Shapes of parameters and statistics; faster than `net.init`, which probes and compiles."""

    def build(x: jax.Array) -> tuple[Tree, Tree]:
        params, statistics, values = {}, {}, {net.stages[0].inputs[0]: x}
        for stage, bound in zip(net.stages, bind_stages(net.stages, FRESH_MODE), strict=True):
            for op, ready in zip(stage.ops, bound.ops, strict=True):
                xs = [values[v] for v in op.sources]
                if isinstance(op, PlayerOp):
                    params[op.name] = op.module.init(jax.random.key(0), *xs)["params"]
                if isinstance(op, BatchNormOp):
                    statistics[op.name] = op.initial_statistics(xs[0])
                values[op.target] = ready(params, *xs)
        return params, statistics

    return jax.eval_shape(build, x)


def make(spec: Spec, *, batch: int = 2, seed: int = 0, dtype: Any = jnp.float64) -> Problem:
    """A problem with random parameters (biases too), inputs and real targets."""
    net = gt.Network(spec.layers())
    x: Any = jax.ShapeDtypeStruct((batch, *spec.shape), dtype)
    own, kept = variable_shapes(net, x)

    def outputs(params: Tree, x: jax.Array, batch_stats: Tree) -> Any:
        return net.apply(params, x, batch_stats=batch_stats)

    y = jax.eval_shape(outputs, own, x, kept)
    return filled(Problem(net, own, x, y, kept), seed=seed, dtype=dtype)


def filled(shaped: Problem, *, seed: int, dtype: Any = jnp.float64) -> Problem:
    """Fills the arrays of a problem (or their shapes) with random numbers."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], scale: float = 1.0) -> jax.Array:
        return jnp.asarray(scale * rng.normal(size=shape), dtype)

    def weights(leaf: Any) -> jax.Array:
        matrix = len(leaf.shape) > 1
        return draw(leaf.shape, np.prod(leaf.shape[:-1]) ** -0.5 if matrix else 0.5)

    x = draw(shaped.x.shape)
    params = jax.tree.map(weights, shaped.params)
    batch_stats = jax.tree.map(lambda leaf: 1 + 0.1 * draw(leaf.shape), shaped.batch_stats)
    return Problem(shaped.net, params, x, draw(shaped.y.shape), batch_stats)


def problem(name: str, **options: Any) -> Problem:
    """`make` for a network of `NETS` or `COUPLED`."""
    return make((NETS | COUPLED)[name], **options)
