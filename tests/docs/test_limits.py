"""Every refusal on docs/limits.md happens, with the words that the page quotes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

import gtddp_jax as gt
from gtddp_lab import data
from gtddp_lab.core.distributed import ProcessCoordinates
from gtddp_lab.data import official
from gtddp_lab.training.placement import Placement

PAGE = Path(__file__).resolve().parents[2] / "docs" / "limits.md"
LOSS = optax.softmax_cross_entropy_with_integer_labels
X, Y = jnp.ones((4, 3)), jnp.arange(4) % 2
NET = gt.Network([nn.Dense(2)])
PARAMS = NET.init(jax.random.key(0), X)
MASK = {"Dense_0": {"kernel": True, "bias": False}}
ADAM: Any = gt.adam(NET, LOSS, 1e-3)
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)
NORMALISED = gt.Network([nn.Dense(2), nn.BatchNorm()])
STATISTICS = NORMALISED.init_variables(jax.random.key(0), X)["batch_stats"]
DROPPING = gt.Network([nn.Dropout(0.1), nn.Dense(2)])
FOUR_DEVICES = AbstractMesh((4,), ("data",))


def quoted() -> list[str]:
    """The second column of every table of the page, without headings."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [row.strip("|").split(" | ")[1].strip() for row in rows]
    return [cell for cell in cells if cell != "message"]


def update(tx: Any, **arguments: Any) -> None:
    given = {"params": PARAMS, "batch": (X, Y)} | arguments
    tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), **given)


def implicit(**options: Any) -> None:
    update(gt.implicit(optax.adam(1e-3), NET, LOSS, **options))


def chained() -> Any:
    """A regularizer before a game."""
    return optax.chain(optax.add_decayed_weights(0.1), ADAM)


def with_aux(params: Any, x: jax.Array) -> Any:
    """A model with an auxiliary output."""
    return NET.apply(params, x), x.mean(0)


def network(*layers: Any) -> None:
    gt.Network(layers).init(jax.random.key(0), X)


def with_function(model: Callable[[Any, Any], Any]) -> None:
    """A step of the implicit game on a function."""
    params = jnp.ones((3, 2))
    tx: Any = gt.implicit(optax.adam(1e-3), model, lambda o, y: LOSS(o[0], y) + o[1])
    tx.update(None, tx.init(params), params, batch=(X, Y))


def network_step(*layers: Any) -> None:
    """A step of GT-DDP-SGD on a stage list."""
    net = gt.Network(layers)
    tx: Any = gt.sgd(net, lambda o, y: LOSS(o.real, y), 0.1)
    params = net.init(jax.random.key(0), X)
    tx.update(None, tx.init(params), params, batch=(X, Y))


@jax.custom_vjp
def opaque(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """A loss whose gradient comes from outside of JAX."""
    return LOSS(outputs, labels)


def opaque_backward(residuals: Any, g: jax.Array) -> tuple[Any, None]:
    outputs, _ = residuals
    return jax.pure_callback(lambda o: o, jax.typeof(outputs), outputs), None


opaque.defvjp(lambda outputs, labels: (LOSS(outputs, labels), (outputs, labels)), opaque_backward)


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.BatchNorm(use_running_average=False)(nn.Dense(2)(x))
        return nn.Dropout(0.5, deterministic=False)(x)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2)(x + jax.random.normal(self.make_rng("noise"), x.shape))


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layer = nn.Dense(3)
        return layer(nn.Dense(3)(layer(x)))


class Pairs(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return (self.param("scale", nn.initializers.ones, ()) * (x @ x.T)) @ x


class Mean(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2)(x).mean(0)


def flax_step(model: nn.Module, stats: bool = True, keys: bool = True, **options: Any) -> None:
    """A step of GT-DDP-SGD on a Flax model."""
    net = gt.from_flax(model, X)
    variables = net.init_variables(jax.random.key(0), X)
    given = variables["batch_stats"] if stats else None
    tx: Any = gt.sgd(net, LOSS, 0.1, batch_stats=given, **options)
    params = variables["params"]
    rngs = {"dropout": jax.random.key(0)} if keys else None
    tx.update(None, tx.init(params), params, batch=(X, Y), rngs=rngs)


def flax_net(model: nn.Module, x: Any = X, **options: Any) -> gt.TracedNetwork:
    return gt.from_flax(model, x, **options)


KEY = jax.random.key(0)
SYNCHRONIZED = nn.Sequential([nn.Dense(2), nn.BatchNorm(False, axis_name="batch")])
NORMED = nn.Sequential([nn.Dense(3), nn.LayerNorm()])


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        self.variable("memory", "calls", jnp.zeros, ())
        return nn.Dense(4)(x)


class Latent(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, z_rng: jax.Array) -> jax.Array:
        return nn.Dense(2)(x + jax.random.normal(z_rng, x.shape))


class ScannedNorm(nn.Module):
    """Batch normalization in a loop."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.param("w", nn.initializers.ones, (2, 3, 3))
        return jax.lax.scan(lambda x, w: (x @ w - (x @ w).mean(0), None), x, w)[0]


class OwnDropout(nn.Dropout):
    """A subclass, whose behavior is unknown."""


def synchronised() -> gt.Network:
    return gt.Network([nn.Dense(2), nn.BatchNorm(axis_name="data")])


def shared() -> None:
    layer = nn.Dense(3)
    network(layer, layer)


def in_shard_map() -> None:
    """One device suffices: the step is refused while it is traced."""
    weighting = gt.weighting.Exact()
    tx = gt.implicit(optax.sgd(0.1), NET, LOSS, weighting=weighting, axis_name="data")
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    specs = (P(), P(), P("data"))
    jax.shard_map(gt.make_update(tx), mesh=mesh, in_specs=specs, out_specs=(P(), P()))(
        PARAMS, tx.init(PARAMS), (X, Y)
    )


def rate_in_closure() -> None:
    """One device suffices here too."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        rate = jax.device_put(0.1, P())
        tx = gt.gtddp(NET, LOSS, gt.curvature.FromOptax(optax.sgd(rate)))
        jax.eval_shape(gt.make_update(tx), PARAMS, tx.init(PARAMS), (X, Y))


PROVOKED: dict[str, Callable[[], Any]] = {
    "inside optax.MultiSteps": lambda: update(optax.MultiSteps(ADAM, 4)),
    "needs all parameters": lambda: update(optax.masked(ADAM, MASK)),
    "stands after it": lambda: update(optax.chain(ADAM, optax.scale(0.5))),
    "updates is None": lambda: chained().update(None, chained().init(PARAMS), PARAMS, batch=(X, Y)),
    "lookahead changes": lambda: optax.lookahead(ADAM, 5, 0.5).init(PARAMS),
    "state must be the": lambda: ADAM.update(
        ZEROS, optax.adam(0.1).init(PARAMS), PARAMS, batch=(X, Y)
    ),
    "updates must be": lambda: ADAM.update(0.0, ADAM.init(PARAMS), PARAMS, batch=(X, Y)),
    "parameters must be arrays": lambda: ADAM.init({"Dense_0": {"kernel": 1.0, "bias": 0.0}}),
    "cannot be used in the base": lambda: gt.implicit(optax.lbfgs(), NET, LOSS).init(PARAMS),
    "the loss failed": lambda: update(gt.implicit(optax.sgd(0.1), with_aux, LOSS)),
    "aux has another structure": lambda: update(
        gt.implicit(optax.sgd(0.1), with_aux, LOSS, has_aux=True, aux={})
    ),
    "update is missing batch": lambda: update(ADAM, batch=None),
    "must be a pair": lambda: update(ADAM, batch=X),
    "one loss per sample": lambda: update(gt.adam(NET, lambda o, y: LOSS(o, y).mean(), 1e-3)),
    "broadcasts outputs": lambda: update(
        gt.adam(NET, lambda o, y: jnp.square(o[:, :1] - y).sum(-1), 1e-3)
    ),
    "of shape (), which is not per sample": lambda: with_function(
        lambda params, x: (x @ params, params.sum())
    ),
    "cannot be differentiated twice": lambda: update(gt.adam(NET, opaque, 1e-3)),
    "complex numbers": lambda: network_step(lambda x: jax.lax.complex(x, x), nn.Dense(2)),
    "curvature must come": lambda: gt.gtddp(NET, LOSS, optax.adam(1e-3)),  # type: ignore[arg-type]
    "model must be an instance": lambda: gt.from_flax(jnp.tanh, X),
    "params do not match the model": lambda: flax_net(nn.Dense(2)).split({"params": {}}),
    "batch_stats is missing: the model": lambda: flax_step(Dropping(), stats=False),
    "rngs is missing ['dropout']: the model": lambda: flax_step(Dropping(), keys=False),
    "Name all streams": lambda: flax_net(Noisy()),
    "would be the same in every step": lambda: flax_net(Latent(), apply_kwargs={"z_rng": KEY}),
    "the inputs hold a random key": lambda: flax_net(Latent(), (X, KEY)),
    "takes these keys in": lambda: flax_net(Latent(), key_arguments=("z_rng",)).apply(
        Latent().init(KEY, X, KEY)["params"], X
    ),
    "Pass further inputs": lambda: flax_net(Latent()),
    "communicates over": lambda: flax_net(SYNCHRONIZED),
    "Pass gtddp the same axis_name as": lambda: gt.adam(
        flax_net(SYNCHRONIZED, axis_name="batch"), LOSS, 1e-3
    ),
    "samples influence each other inside": lambda: flax_net(ScannedNorm()),
    "modules act as one": lambda: flax_net(
        nn.RNN(nn.GRUCell(2)), X[:, :, None], unsupported="error"
    ),
    "are used again after": lambda: flax_step(Twice(), rollout="nonlinear"),
    "inputs must have the samples": lambda: flax_net(nn.Dense(2), (X, X[:2])),
    "does not have the samples": lambda: flax_net(Mean()),
    "samples are compared": lambda: flax_net(Pairs()),
    "net must be": lambda: gt.adam(nn.Dense(2), LOSS, 1e-3),  # type: ignore[arg-type]
    "params do not match the players": lambda: NET.apply({}, X),
    "batch_stats is missing: ['BatchNorm_0']": lambda: gt.adam(NORMALISED, LOSS, 1e-3),
    "batch_stats do not match": lambda: gt.adam(NET, LOSS, 1e-3, batch_stats=STATISTICS),
    "synchronises its statistics": lambda: gt.adam(
        synchronised(), LOSS, 1e-3, batch_stats=STATISTICS
    ),
    "rngs is missing ['dropout']: the network": lambda: update(gt.adam(DROPPING, LOSS, 1e-3)),
    "needs a random key in every step": lambda: update(
        gt.implicit(optax.adam(1e-3), DROPPING, LOSS)
    ),
    "a subclass of": lambda: network(nn.Dense(2), OwnDropout(0.1)),
    "cannot be a member": lambda: network(gt.Cooperative([nn.Dense(2), nn.BatchNorm()])),
    "nn.BatchNorm(axis=1)": lambda: network(nn.BatchNorm(axis=1)),
    "the output of one sample": lambda: network(nn.Dense(2), lambda x: x - x.mean(0)[None]),
    "an array whose leading axis": lambda: network(nn.Dense(2), jnp.sum),
    "cannot add states": lambda: network(gt.Residual([nn.Dense(5)])),
    "at=3": lambda: network(gt.Residual([nn.Dense(3), nn.Dense(3)], at=3)),
    "the body is empty": lambda: gt.Residual([]),
    "object already stands": shared,
    "is taken by": lambda: network(nn.Dense(3, name="a"), nn.Dense(3, name="a")),
    "is a class": lambda: network(nn.Dense(3), nn.LayerNorm),
    "a player may have": lambda: network(Counting()),
    "Invalid weighting": lambda: implicit(weighting="all"),
    "must be in [0, 1]": lambda: implicit(strength=2.0),
    "needs aux=": lambda: implicit(has_aux=True),
    "needs all samples": in_shard_map,
    "nothing is downloaded": lambda: data.load_dataset("cifar10", Path("nowhere")),
    "a folder with the four": lambda: official.read_original_files("mnist", Path("nowhere")),
    "batch_size must be": lambda: Placement(FOUR_DEVICES).check_batch(6),  # type: ignore[arg-type]
    "closes over an array": rate_in_closure,
    "go together": lambda: ProcessCoordinates("host:1234", num_processes=2),
}
"""Inputs that provoke the message of the page with these words."""


@pytest.mark.parametrize("beginning", PROVOKED)
def test_the_quoted_words_are_the_message(beginning: str) -> None:
    (words,) = [cell for cell in quoted() if beginning in cell]
    with pytest.raises(ValueError) as error:
        PROVOKED[beginning]()
    assert words in str(error.value)


def test_every_message_of_the_page_is_provoked() -> None:
    assert all(any(beginning in cell for beginning in PROVOKED) for cell in quoted())
    assert len(quoted()) == len(PROVOKED)
