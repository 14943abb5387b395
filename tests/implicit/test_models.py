"""Any model: Flax (linen, nnx), pure functions, callable pytrees, trees of outputs, sequences."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gtddp_jax as gt
from tests.default_run import quick_cases
from tests.implicit import dense, models
from tests.implicit.models import implicit, implicit_weights

Tree = Any
BASE = optax.adam(0.05)
X, Y = models.classification(batch=6).x, models.classification(batch=6).y


def train(tx: Any, params: Tree, batch: Any, steps: int = 4) -> tuple[Tree, Any]:
    """Parameters and state after some steps, none of which may be skipped."""

    @jax.jit
    def step(params: Tree, state: Any) -> tuple[Tree, Any]:
        updates, state = tx.update(None, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    assert state.report.skipped_steps == 0
    return params, state


def assert_close(got: Tree, want: Tree, rtol: float = 1e-10) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-3 * rtol)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Affine:
    """A layer that is a callable pytree, as in Equinox."""

    w: jax.Array
    b: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.w + self.b[None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Callable:
    """A model that is a pytree with a static field."""

    hidden: Affine
    out: Affine
    second_derivative: str = dataclasses.field(metadata={"static": True})

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(getattr(jnp, self.second_derivative)(self.hidden(x)))


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.tanh(nn.Dense(4, name="hidden")(x))
        return nn.Dense(3, name="out")(h)


class Nnx(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.hidden, self.out = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.tanh(self.hidden(x)))


def renamed(params: Tree) -> Tree:
    """The parameters of `models.mlp` under Flax's names."""
    return {name: {"kernel": p["w"], "bias": p["b"]} for name, p in params.items()}


def kinds() -> dict[str, tuple[Any, Tree]]:
    """The same network in several styles, with the same parameters."""
    params = models.mlp_params()
    graph, state = nnx.split(Nnx(), nnx.Param)
    nnx.replace_by_pure_dict(state, renamed(params))
    haiku = {f"mlp/~/{name}": p for name, p in params.items()}

    def haiku_apply(params: Tree, x: jax.Array) -> jax.Array:
        return models.mlp({name.rpartition("/")[2]: p for name, p in params.items()}, x)

    return {
        "plain": (models.mlp, params),
        "linen": (lambda params, x: Linen().apply({"params": params}, x), renamed(params)),
        "nnx": (lambda state, x: nnx.merge(graph, state)(x), state),
        "nnx, pure": (lambda state, x: nnx.merge(graph, state)(x), nnx.as_pure(state)),
        "haiku": (haiku_apply, haiku),
        "callable": (
            lambda model, x: model(x),
            Callable(
                *(Affine(params[k]["w"], params[k]["b"]) for k in params), second_derivative="tanh"
            ),
        ),
    }


@pytest.mark.slow
def test_the_same_network_in_every_style() -> None:
    found = {}
    for name, (apply_fn, params) in kinds().items():
        tx = implicit(BASE, apply_fn, models.cross_entropy, weighting="full")
        after, state = train(tx, params, (X, Y))
        assert jax.tree.structure(after) == jax.tree.structure(params)
        assert state.report.sample_weight_max - state.report.sample_weight_min > 1e-3
        found[name] = (sorted(float(leaf.sum()) for leaf in jax.tree.leaves(after)), state.report)
    sums, report = found.pop("plain")
    for name, (other, other_report) in found.items():
        np.testing.assert_allclose(other, sums, rtol=1e-9, err_msg=name)
        assert_close(other_report, report, rtol=1e-5)


class WithNorm(nn.Module):
    """A model whose BatchNorm couples the samples and keeps running statistics."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # A bias would have a gradient of rounding errors only, which Adam scales up.
        h = nn.Dense(5, use_bias=False)(x)
        h = nn.BatchNorm(use_running_average=False, momentum=0.8)(h)
        return nn.Dense(3)(nn.tanh(h))


def with_norm() -> tuple[Any, Tree, Tree]:
    module = WithNorm()
    variables = jax.tree.map(lambda v: v.astype(float), module.init(jax.random.key(0), X))

    def apply_fn(variables: Tree, x: jax.Array) -> Any:
        return module.apply(variables, x, mutable=["batch_stats"])

    return apply_fn, variables["params"], variables["batch_stats"]


@pytest.mark.slow
def test_batch_norm_without_the_game_is_plain_training() -> None:
    """The statistics travel with the inputs; `state.aux` holds the updated ones."""
    apply_fn, start, statistics = with_norm()

    def game_apply(params: Tree, inputs: Any) -> tuple[jax.Array, Tree]:
        x, statistics = inputs
        outputs, new = apply_fn({"params": params, "batch_stats": statistics}, x)
        return outputs, new["batch_stats"]

    def mean_loss(params: Tree, statistics: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        outputs, new = game_apply(params, (x, statistics))
        return models.cross_entropy(outputs, Y).mean(), new

    @jax.jit
    def plain(params: Tree, statistics: Tree, state: Any, x: jax.Array) -> Any:
        gradient, statistics = jax.grad(mean_loss, has_aux=True)(params, statistics, x)
        updates, state = BASE.update(gradient, state, params)
        return optax.apply_updates(params, updates), statistics, state

    def transformation(strength: float) -> Any:
        return implicit(
            BASE,
            game_apply,
            models.cross_entropy,
            strength=strength,
            weighting="full",
            has_aux=True,
            aux=statistics,
        )

    @jax.jit
    def game(params: dict[float, Tree], state: dict[float, Any], x: jax.Array) -> Any:
        found = {}
        for strength in params:
            updates, after = transformation(strength).update(
                None,
                state[strength],
                params[strength],
                batch=((x, state[strength].aux), Y),
            )
            found[strength] = optax.apply_updates(params[strength], updates), after
        return {s: p for s, (p, _) in found.items()}, {s: a for s, (_, a) in found.items()}

    params, stats, base_state = start, statistics, BASE.init(start)
    ours = dict.fromkeys((0.0, 1.0), start)
    states = {strength: transformation(strength).init(start) for strength in ours}
    for i in range(4):
        x = X + 0.3 * i
        params, stats, base_state = plain(params, stats, base_state, x)
        ours, states = game(ours, states, x)
    assert_close((ours[0.0], states[0.0].aux), (params, stats))
    assert states[1.0].report.sample_weight_max - states[1.0].report.sample_weight_min > 1e-3
    assert not np.allclose(states[1.0].aux["BatchNorm_0"]["mean"], stats["BatchNorm_0"]["mean"])
    same, kept = game(ours, states, X * np.nan)
    assert kept[1.0].report.skipped
    assert_close((same, kept[1.0].aux), (ours, states[1.0].aux))


def test_batch_norm_weights_use_coupled_gradients() -> None:
    """G_i is the derivative of sample i's loss through the normalization by the whole batch."""
    both, params, statistics = with_norm()

    def apply_fn(params: Tree, x: jax.Array) -> Any:
        return both({"params": params, "batch_stats": statistics}, x)

    p = dense.Problem(lambda u, x: apply_fn(u, x)[0], models.cross_entropy, params, X, Y)
    losses, base = dense.Losses(p), dense.Base(BASE, BASE.init(params), params)
    want = losses.scalar_weights(*dense.influence(losses, base))
    arguments = (BASE, apply_fn, models.cross_entropy)
    aux = {"batch_stats": statistics}
    options = {
        "weighting": gt.weighting.Full("implicit"),
        "bounds": None,
        "has_aux": True,
        "aux": aux,
    }
    state = implicit(*arguments, **options).init(params)
    look = jax.jit(implicit_weights(*arguments, **options))
    np.testing.assert_allclose(look(state, params, (X, Y)), want, rtol=1e-10)


class WithDropout(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.Dropout(0.5, deterministic=False)(nn.tanh(nn.Dense(8)(x)))
        return nn.Dense(3)(h)


@pytest.mark.slow
def test_dropout_key_in_the_inputs_or_in_the_closure() -> None:
    """With one key, prediction and step drop the same units."""
    module = WithDropout()
    params = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)["params"]
    params = jax.tree.map(lambda u: u.astype(float), params)

    def with_key(params: Tree, inputs: Any) -> Any:
        x, key = inputs
        return module.apply({"params": params}, x, rngs={"dropout": key})

    def updates(apply_fn: Any, inputs: Any) -> Tree:
        tx = implicit(BASE, apply_fn, models.cross_entropy, weighting="full")
        updates, state = tx.update(None, tx.init(params), params, batch=(inputs, Y))
        return updates, state.report.sample_weight_min

    @jax.jit
    def both(key: jax.Array) -> tuple[Tree, Tree]:
        closed = updates(lambda params, x: with_key(params, (x, key)), X)
        return updates(with_key, (X, key)), closed

    in_inputs, in_closure = both(jax.random.key(2))
    assert_close(in_inputs, in_closure)
    assert in_inputs[1] < 0.99
    other, _ = both(jax.random.key(3))
    assert not np.allclose(other[0]["Dense_0"]["kernel"], in_inputs[0]["Dense_0"]["kernel"])


@pytest.mark.slow
def test_outputs_may_be_a_tree() -> None:
    """Two heads equal one concatenated output vector."""
    p = models.classification(batch=6)

    def tree_apply(params: Tree, inputs: dict[str, jax.Array]) -> dict[str, Any]:
        outputs = models.mlp(params, inputs["x"])
        return {"left": outputs[:, :1], "right": (outputs[:, 1:],)}

    def tree_loss(outputs: dict[str, Any], targets: dict[str, jax.Array]) -> jax.Array:
        joined = jnp.concatenate([outputs["left"], *outputs["right"]], axis=1)
        return models.cross_entropy(joined, targets["y"])

    for weighting in models.WEIGHTINGS:
        options = {"weighting": weighting}
        want, _ = train(implicit(BASE, p.apply_fn, p.loss, **options), p.params, (X, Y), 3)
        tx = implicit(BASE, tree_apply, tree_loss, **options)
        got, _ = train(tx, p.params, ({"x": X}, {"y": Y}), 3)
        assert_close(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", quick_cases(models.WEIGHTINGS))
def test_masked_sequences(weighting: str) -> None:
    """Outputs [B, T, V], one loss per sequence; padding does not matter."""
    rng = np.random.default_rng(0)
    lengths = np.array([4, 2, 3, 1, 0])
    tokens = jnp.asarray(rng.integers(0, 7, size=(5, 4)))
    mask = jnp.asarray(np.arange(4)[None] < lengths[:, None])
    params = {
        "table": jnp.asarray(rng.normal(size=(7, 3))),
        "mix": jnp.asarray(rng.normal(size=(3, 3))),
        "head": jnp.asarray(rng.normal(size=(3, 7))),
    }

    def apply_fn(params: Tree, tokens: jax.Array) -> jax.Array:
        h = params["table"][tokens]
        past = jnp.cumsum(h, axis=1) / jnp.arange(1, 5)[None, :, None]
        return jnp.tanh(past @ params["mix"]) @ params["head"]

    def loss(outputs: jax.Array, targets: tuple[jax.Array, jax.Array]) -> jax.Array:
        labels, mask = targets
        return (models.cross_entropy(outputs, labels) * mask).sum(1) / jnp.maximum(mask.sum(1), 1)

    tx = implicit(BASE, apply_fn, loss, weighting=weighting)
    labels = jnp.roll(tokens, -1, axis=1)
    got, state = train(tx, params, (tokens, (labels, mask)), 3)
    assert state.report.sample_weight_max - state.report.sample_weight_min > 1e-3
    other = jnp.where(mask, tokens, 6)
    padded, other_state = train(tx, params, (other, (jnp.where(mask, labels, 0), mask)), 3)
    assert_close(padded, got)
    assert_close(other_state.report, state.report, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [jnp.bfloat16, jnp.float32])
def test_bfloat16(kept: Any, float32: None) -> None:
    """Parameters in bfloat16 or float32, arithmetic in bfloat16, sums over samples in float32."""
    start = models.mlp_params()
    low_start = jax.tree.map(lambda u: u.astype(kept), start)
    x = X.astype(jnp.float32)

    def apply_fn(params: Tree, x: jax.Array) -> jax.Array:
        low = jax.tree.map(lambda u: u.astype(jnp.bfloat16), params)
        return models.mlp(low, x.astype(jnp.bfloat16))

    base = optax.sgd(0.5)
    for weighting in models.WEIGHTINGS:
        options = {"weighting": weighting}
        low = implicit(base, apply_fn, models.cross_entropy, **options)
        high = implicit(base, models.mlp, models.cross_entropy, **options)
        got, state = train(low, low_start, (x, Y), 2)
        _, wide_state = train(high, start, (x, Y), 2)
        assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(kept)}
        report: Any = jax.tree.leaves(state.report)
        assert {leaf.dtype for leaf in report if leaf.dtype.kind == "f"} == {jnp.dtype("f4")}
        # bfloat16 has 8 bits: 1 part in 256 in each of a few roundings.
        for name in (
            "loss",
            "sample_weight_min",
            "sample_weight_mean",
            "sample_weight_max",
            "predicted_change",
        ):
            got_figure, want_figure = getattr(state.report, name), getattr(wide_state.report, name)
            assert got_figure == pytest.approx(float(want_figure), abs=0.03), (weighting, name)
