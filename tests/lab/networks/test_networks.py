"""Networks: parameter counts, stages, shapes, and a ResNet against plain Flax."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gtddp_lab import networks
from gtddp_lab.training.methods import OPTIMIZERS
from tests.default_run import quick_cases
from tests.sequential import zoo


class Expected(NamedTuple):
    """Expected numbers of a network.

    Attributes:
        parameters: number of parameters.
        statistics: number of running means and variances.
        stages: number of stages.
        players: number of players.
    """

    parameters: int
    statistics: int
    stages: int
    players: int


DIGITS, MNIST, COLOURED = (8, 8, 1), (28, 28, 1), (32, 32, 3)
CONV = 16 * 16 * 9
ONE = 3 * (CONV + 16) + 10  # what residual-conv has beside stem and head's kernel
NO_BIAS = {"norm": "batch"}

KNOWN: dict[str, tuple[str, int, tuple[int, ...], dict[str, Any], Expected]] = {
    "digits": ("residual-conv", 10, DIGITS, {}, Expected(160 + ONE + 64 * 160, 0, 5, 5)),
    "mnist": ("residual-conv", 10, MNIST, {}, Expected(160 + ONE + 784 * 160, 0, 5, 5)),
    "mnist, stride": (
        "residual-conv-stride",
        10,
        MNIST,
        {},
        Expected(160 + ONE + 196 * 160, 0, 5, 5),
    ),
    "svhn": ("residual-conv", 10, COLOURED, {}, Expected(448 + ONE + 1024 * 160, 0, 5, 5)),
    "mnist, batch norm": (
        "residual-conv",
        10,
        MNIST,
        NO_BIAS,
        Expected(144 + 3 * CONV + 4 * 32 + 784 * 160 + 10, 4 * 32, 9, 9),
    ),
    "svhn, shortcut": (
        "residual-conv",
        10,
        COLOURED,
        {"shortcut": "conv", "at": 2},
        Expected(448 + ONE + 272 + 1024 * 160, 0, 5, 6),
    ),
    "cifar-10": ("four-blocks", 10, COLOURED, {}, Expected(154_490, 1_088, 27, 31)),
    # Published: 11 173 962 and, for 100 classes, 11 220 132 (pytorch-cifar, pytorch-cifar100).
    "resnet18": ("resnet18", 10, COLOURED, {}, Expected(11_173_962, 9_600, 35, 41)),
    "cifar-100": ("resnet18", 100, COLOURED, {}, Expected(11_220_132, 9_600, 35, 41)),
    # Published: 11 171 146 without the normalisation after the last block (pytorch-cifar).
    "preact": ("preact-resnet18", 10, COLOURED, {}, Expected(11_171_146 + 1_024, 7_808, 35, 38)),
    "narrow": ("narrow-resnet18", 10, COLOURED, {}, Expected(176_402, 1_200, 35, 41)),
    "fig 7": (
        "cooperative",
        10,
        MNIST,
        {},
        Expected(2 * (80 + 2 * 584 + 392 * 32 + 32) + 330, 0, 5, 9),
    ),
}
"""Network, classes, shape of an image, options, and expected numbers."""


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", KNOWN)
def test_counts_and_shapes(name: str) -> None:
    network, classes, shape, options, want = KNOWN[name]
    net = networks.build_network(network, classes, **options)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    params, stats = zoo.variable_shapes(net, x)
    got = Expected(count(params), count(stats), len(net.stages), len(net.players))
    assert got == want

    def evaluate(params: Any, x: jax.Array, stats: Any) -> jax.Array:
        return net.apply(params, x, batch_stats=stats)

    outputs = jax.eval_shape(evaluate, params, x, stats)
    assert outputs.shape == (2, classes) and outputs.dtype == jnp.float32
    assert net.has_batch_stats == bool(want.statistics)


class ResNet(nn.Module):
    """ResNet-18 of He et al., both forms, layer after layer; `train` is always False."""

    width: int
    preactivation: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(x: jax.Array, width: int, size: int = 3, strides: int = 1) -> jax.Array:
            return nn.Conv(width, (size, size), strides, use_bias=False)(x)

        def norm(x: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=True)(x)

        def post(x: jax.Array, width: int, strides: int) -> jax.Array:
            h = nn.relu(norm(conv(x, width, strides=strides)))
            h = norm(conv(h, width))
            if x.shape != h.shape:
                x = norm(conv(x, width, 1, strides))
            return nn.relu(h + x)

        def pre(x: jax.Array, width: int, strides: int) -> jax.Array:
            active = nn.relu(norm(x))
            h = conv(active, width, strides=strides)
            h = conv(nn.relu(norm(h)), width)
            if x.shape != h.shape:
                x = conv(active, width, 1, strides)
            return h + x

        x = conv(x, self.width)
        x = x if self.preactivation else nn.relu(norm(x))
        block = pre if self.preactivation else post
        for i, strides in enumerate((1, 2, 2, 2)):
            x = block(x, self.width * 2**i, strides)
            x = block(x, self.width * 2**i, 1)
        x = nn.relu(norm(x)) if self.preactivation else x
        return nn.Dense(5)(x.mean((1, 2)))


@pytest.mark.parametrize("preactivation", [False, True])
def test_resnet_is_that_of_flax(preactivation: bool) -> None:
    """The same names, the same shapes, the same function."""
    net = networks.build_network("resnet18", 5, width=2, preactivation=preactivation)
    model = ResNet(2, preactivation)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)
    variables: Any = jax.tree.map(
        lambda leaf: jnp.asarray(1 + 0.3 * rng.normal(size=leaf.shape), jnp.float32), dict(shapes)
    )

    def both(variables: Any, x: jax.Array) -> Any:
        params, stats = variables["params"], variables["batch_stats"]
        return net.apply(params, x, batch_stats=stats), model.apply(variables, x)

    stats = jax.tree.map(jnp.abs, variables["batch_stats"])
    got, want = jax.jit(both)({"params": variables["params"], "batch_stats": stats}, x)
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_placement_of_a_shortcut(at: int) -> None:
    """Its convolution acts beside the given stage of the body, its normalisation one later."""
    net = networks.build_network("four-blocks", 10, shortcut="conv", at=at)
    first = [stage.players for stage in net.stages[2:8]]  # convolution, normalisation, three times
    together = [i for i, players in enumerate(first) if len(players) == 2]
    assert together == [at, at + 1]
    assert first[at][1].startswith("Conv") and first[at + 1][1].startswith("BatchNorm")


def test_players_of_cooperative_blocks_share_a_stage() -> None:
    net = networks.build_network("cooperative", 10)
    assert [len(stage.players) for stage in net.stages] == [2, 2, 2, 2, 1]


IMAGE_NETWORKS = [name for name in networks.NETWORKS if name != "char-gpt"]


def test_a_character_depends_on_those_before_it() -> None:
    """And on nothing after it; its outputs are scores of every position."""
    net = networks.build_network("char-gpt", 128, width=8, heads=2)
    codes = jnp.asarray(np.random.default_rng(0).integers(0, 128, (2, 6)), jnp.float32)
    x = codes[:, :, None, None] / 255
    params = net.init(jax.random.key(0), x)
    before = net.apply(params, x)
    after = net.apply(params, x.at[:, 3].set(65 / 255))
    assert before.shape == (2, 6, 128)
    changed = np.abs(np.asarray(after - before)).max((0, 2))
    assert (changed[:3] == 0).all() and (changed[3:] > 0).all()


@pytest.mark.parametrize(
    ("name", "optimizer"),
    quick_cases([*((name, "adam") for name in IMAGE_NETWORKS), ("four-blocks", "kfac")]),
)
def test_a_step_can_be_traced(name: str, optimizer: str) -> None:
    """Every network of the table, small, through the whole optimizer (nothing is compiled)."""
    net = networks.build_network(name, 3, width=8)
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    y = jax.ShapeDtypeStruct((2,), jnp.int32)
    params, shapes = zoo.variable_shapes(net, x)
    stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    loss = optax.softmax_cross_entropy_with_integer_labels
    build = OPTIMIZERS[optimizer].build_sequential
    assert build is not None
    tx: Any = build(net, loss, 1e-3, batch_stats=stats)

    def step(params: Any, x: jax.Array, y: jax.Array) -> Any:
        return tx.update(None, tx.init(params), params, batch=(x, y))

    updates, state = jax.eval_shape(step, params, x, y)
    assert updates == params and state.batch_stats == shapes


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Invalid network: 'resnet'.*resnet18"):
        networks.build_network("resnet", 10)
    with pytest.raises(ValueError, match=r"Invalid norm: 'bath'.*batch"):
        networks.build_network("resnet18", 10, norm="bath")
    with pytest.raises(ValueError, match=r"Invalid shortcut: 'none'.*identity, conv"):
        networks.build_network("four-blocks", 10, shortcut="none")
