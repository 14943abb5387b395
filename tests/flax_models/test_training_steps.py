"""Steps of linen's TrainState and of nnx modules equal steps that are written out.

The model has batch normalization and dropout, whose state must change once a step although a game
calls the function of losses more often.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT

import gtddp_jax as gt

STEPS = 2
X = jax.random.normal(jax.random.key(0), (6, 4))
Y = jnp.arange(6) % 3
BASE = optax.adam(0.1)
GAME = {"weighting": "full", "bounds": None}
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def batch() -> tuple[jax.Array, jax.Array]:
    """The batch in the precision of the test."""
    return X.astype(jnp.float64), Y


def assert_close(got: Any, want: Any) -> None:
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


def literal_gradient(
    apply_fn: Callable[..., Any], params: Any, base_state: Any, aux: Any, with_game: bool
) -> tuple[jax.Array, jax.Array, Any]:
    """The mean loss, the sample weights [B] and the gradient of the weighted mean.

    Args:
        apply_fn: `(params, (x, state)) -> (outputs, new state)`.
        params: the parameters.
        base_state: the state of the base.
        aux: the state, an argument of `apply_fn`.
        with_game: whether the weights are those of the implicit game; else they are 1.
    """
    x, y = batch()

    def losses(params: Any) -> jax.Array:
        return cross_entropy(apply_fn(params, (x, aux))[0], y)

    weights = jnp.ones(len(y))
    if with_game:
        game: Any = (BASE, lambda params, x: apply_fn(params, (x, aux))[0], cross_entropy)
        state: Any = gt.implicit(*game, **GAME).init(params)
        state = state._replace(base=base_state)
        weights = gt.implicit_weights(*game, **GAME)(state, params, (x, y))
    gradient = jax.grad(lambda params: (weights * losses(params)).mean())(params)
    return losses(params).mean(), weights, gradient


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(5, param_dtype=jnp.float64)(x)
        x = nn.BatchNorm(use_running_average=False, param_dtype=jnp.float64)(x)
        x = nn.Dropout(0.3, deterministic=False)(nn.tanh(x))
        return nn.Dense(3, param_dtype=jnp.float64)(x)


class BatchNormState(gt.linen.TrainState):
    batch_stats: Any


@pytest.mark.parametrize("with_game", [False, True])
def test_train_state(with_game: bool) -> None:
    model, (x, y) = LinenModel(), batch()
    rngs = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    # Statistics begin in float32 whatever the parameters are.
    variables = jax.tree.map(lambda leaf: leaf.astype(x.dtype), jax.jit(model.init)(rngs, x))
    tx = gt.implicit(BASE, **GAME) if with_game else BASE
    state = BatchNormState.create(apply_fn=model.apply, tx=tx, **variables)
    traces = []

    @jax.jit
    def train_step(state: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
        traces.append(x)

        def losses(params: Any, x: jax.Array, *, key: jax.Array) -> gt.Losses:
            logits, changed = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats},
                x,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            return gt.Losses(logits, lambda logits: cross_entropy(logits, y), aux=changed)

        state, output = state.apply_losses(losses, x, key=key)
        return state.replace(batch_stats=output.aux["batch_stats"]), output

    @jax.jit
    def literal_step(params: Any, stats: Any, base_state: Any, key: jax.Array) -> Any:
        def apply_fn(params: Any, inputs: Any) -> Any:
            x, stats = inputs
            return model.apply(
                {"params": params, "batch_stats": stats},
                x,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )

        loss, weights, gradient = literal_gradient(apply_fn, params, base_state, stats, with_game)
        updates, base_state = BASE.update(gradient, base_state, params)
        stats = apply_fn(params, (x, stats))[1]["batch_stats"]
        return optax.apply_updates(params, updates), stats, base_state, loss, weights

    params, stats = variables["params"], variables["batch_stats"]
    base_state = BASE.init(params)
    output: Any = None
    weights: Any = None
    for key in jax.random.split(jax.random.key(3), STEPS):
        state, output = train_step(state, x, y, key)
        params, stats, base_state, loss, weights = literal_step(params, stats, base_state, key)
        assert_close((state.params, state.batch_stats, output.loss), (params, stats, loss))
    assert state.step == STEPS and len(traces) == 1
    if with_game:
        assert abs(weights - 1).max() > 0.01
        assert_close(output.report.sample_weight_max, weights.max().astype(jnp.float32))
    else:
        assert output.report is None


def test_train_state_with_the_sequential_game() -> None:
    x, y = batch()
    net = gt.Network([nn.Dense(3)])
    params = net.init(jax.random.key(1), x)
    tx = gt.gtddp(net, None, gt.curvature.SGD(0.5))
    state = gt.linen.TrainState.create(apply_fn=net.apply, params=params, tx=tx)

    def losses(params: Any) -> gt.Losses:
        return gt.Losses(net.apply(params, x, train=True), lambda logits: cross_entropy(logits, y))

    state, output = jax.jit(lambda state: state.apply_losses(losses))(state)
    pair: Any = gt.gtddp(net, cross_entropy, gt.curvature.SGD(0.5))
    params, pair_state = gt.make_update(pair)(params, pair.init(params), (x, y))
    assert_close(state.params, params)
    assert_close(output.report, pair_state.report)


def test_train_state_refuses_scales_of_fp8_layers() -> None:
    params = {"params": {"w": jnp.ones(3)}, OVERWRITE_WITH_GRADIENT: {"scale": jnp.ones(1)}}
    state = gt.linen.TrainState.create(apply_fn=None, params=params, tx=gt.implicit(BASE))
    with pytest.raises(ValueError, match="the scales of fp8 layers, which gradients replace"):
        state.apply_losses(lambda params: gt.Losses(X, lambda outputs: outputs[:, 0]))


class NnxModel(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(4, 5, rngs=rngs, param_dtype=jnp.float64)
        self.norm = nnx.BatchNorm(5, rngs=rngs, param_dtype=jnp.float64)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.Linear(5, 3, rngs=rngs, param_dtype=jnp.float64)
        for statistic in (self.norm.mean, self.norm.var):  # float32 whatever the parameters are
            statistic.set_value(statistic[...].astype(jnp.float64))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.dropout(nnx.tanh(self.norm(self.first(x)))))


def nnx_losses(model: Any, x: jax.Array, *, y: jax.Array) -> gt.Losses:
    logits = model(x)
    return gt.Losses(logits, lambda logits: cross_entropy(logits, y), aux={"logits": logits})


def numbers(module: Any) -> Any:
    """All variables of a module except random keys."""
    return nnx.as_pure(nnx.state(module, nnx.Not(nnx.RngKey)))


@nnx.jit
def plain_nnx_step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    def mean_loss(model: Any) -> jax.Array:
        return cross_entropy(model(x), y).mean()

    loss, gradient = nnx.value_and_grad(mean_loss)(model)
    optimizer.update(model, gradient)
    return loss


@pytest.mark.slow
def test_an_nnx_step_without_a_game_is_flax_own() -> None:
    x, y = batch()
    models: list[Any] = [NnxModel(nnx.Rngs(0)) for _ in range(3)]
    optimizers = [nnx.Optimizer(model, BASE, wrt=nnx.Param) for model in models]
    traces = []

    @nnx.jit
    def own_loop(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> gt.StepOutput:
        traces.append(x)
        return gt.nnx.update(model, optimizer, nnx_losses, x, y=y)

    step = gt.nnx.make_step(models[2], optimizers[2], nnx_losses)
    outputs: Any = ()
    for _ in range(STEPS):
        loss = plain_nnx_step(models[0], optimizers[0], x, y)
        outputs = own_loop(models[1], optimizers[1], x, y), step(x, y=y)
        assert_close([output.loss for output in outputs], [loss, loss])
    for model, optimizer in zip(models[1:], optimizers[1:], strict=True):
        assert_close(numbers(model), numbers(models[0]))
        assert_close(numbers(optimizer), numbers(optimizers[0]))
    assert models[1].dropout.rngs.count[...] == optimizers[1].step[...] == STEPS
    assert len(traces) == 1 and outputs[1].report is None


@pytest.mark.slow
def test_an_nnx_step_with_the_game_is_the_literal_one() -> None:
    x, y = batch()
    models: list[Any] = [NnxModel(nnx.Rngs(0)) for _ in range(2)]
    model, own = models
    calls = []

    def losses(model: Any, x: jax.Array, *, y: jax.Array) -> gt.Losses:
        calls.append(x)
        return nnx_losses(model, x, y=y)

    step = gt.nnx.make_step(model, gt.implicit(BASE, **GAME), losses)
    graph, params, rest = nnx.split(own, nnx.Param, ...)
    params, rest = nnx.as_pure(params), nnx.as_pure(rest)

    def apply_fn(params: Any, inputs: Any) -> Any:
        x, rest = inputs
        copy = nnx.merge(graph, params, rest)
        return copy(x), nnx.as_pure(nnx.state(copy, nnx.Not(nnx.Param)))

    @jax.jit
    def literal_step(params: Any, rest: Any, base_state: Any) -> Any:
        loss, weights, gradient = literal_gradient(apply_fn, params, base_state, rest, True)
        updates, base_state = BASE.update(gradient, base_state, params)
        logits, rest = apply_fn(params, (x, rest))
        return optax.apply_updates(params, updates), rest, base_state, loss, weights, logits

    base_state, counts = BASE.init(params), set()
    output: Any = None
    weights: Any = None
    for _ in range(STEPS):
        output = step(x, y=y)
        counts.add(len(calls))
        params, rest, base_state, loss, weights, logits = literal_step(params, rest, base_state)
        assert_close((output.loss, output.aux["logits"]), (loss, logits))
    nnx.update(own, params)
    nnx.update(own, rest)
    assert_close(numbers(model), numbers(own))
    assert len(counts) == 1, "compiled once"
    assert abs(weights - 1).max() > 0.01
    assert_close(output.report.sample_weight_max, weights.max().astype(jnp.float32))


@pytest.mark.slow
def test_state_changes_once_a_step_and_not_in_evaluation_mode() -> None:
    x, y = batch()
    model: Any = NnxModel(nnx.Rngs(0))
    calls = []

    def losses(model: Any, x: jax.Array) -> gt.Losses:
        calls.append(x)
        return nnx_losses(model, x, y=y)

    step = gt.nnx.make_step(model, gt.implicit(BASE), losses)
    hidden = model.first(x)
    output = step(x)
    assert len(calls) > 1, "this game calls losses more than once"
    assert model.dropout.rngs.count[...] == 1
    assert_close(model.norm.mean[...], 0.01 * hidden.mean(0))
    model.eval()
    assert gt.nnx.make_step(model, BASE, losses)(x).loss != output.loss
    assert model.dropout.rngs.count[...] == 1
    assert_close(model.norm.mean[...], 0.01 * hidden.mean(0))


def test_streams_among_the_arguments() -> None:
    """They advance as in Flax's own step."""
    x, y = batch()

    def losses(model: Any, rngs: Any) -> gt.Losses:
        logits = model(x + rngs.noise.normal(x.shape, x.dtype))
        return gt.Losses(logits, lambda logits: cross_entropy(logits, y))

    @nnx.jit
    def flax_step(model: Any, optimizer: Any, rngs: Any) -> jax.Array:
        mean_loss = gt.mean_loss(losses)
        (loss, _), gradient = nnx.value_and_grad(mean_loss, has_aux=True)(model, rngs)
        optimizer.update(model, gradient)
        return loss

    models: list[Any] = [NnxModel(nnx.Rngs(0)) for _ in range(2)]
    streams = [nnx.Rngs(noise=1) for _ in models]
    optimizer = nnx.Optimizer(models[0], BASE, wrt=nnx.Param)
    step = gt.nnx.make_step(models[1], BASE, losses)
    for _ in range(STEPS):
        assert_close(step(streams[1]).loss, flax_step(models[0], optimizer, streams[0]))
    assert_close(numbers(models[1]), numbers(models[0]))
    assert [rngs.noise.count[...] for rngs in streams] == [STEPS, STEPS]


def test_only_the_variables_of_the_optimizer_are_trained() -> None:
    x, y = batch()
    model: Any = NnxModel(nnx.Rngs(0))
    last = nnx.All(nnx.Param, nnx.PathContains("last"))
    before = numbers(model)
    step = gt.nnx.make_step(
        model, nnx.Optimizer(model, gt.implicit(BASE, **GAME), wrt=last), nnx_losses
    )
    step(x, y=y)
    after = numbers(model)
    assert_close(after["first"], before["first"])
    assert abs(after["last"]["kernel"] - before["last"]["kernel"]).max() > 0.01


def test_recorded_intermediates_are_returned_as_aux() -> None:
    class Recording(nnx.Module):
        def __init__(self) -> None:
            self.linear = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            self.logits = nnx.Intermediate(self.linear(x))
            return self.logits[...]

    def losses(model: Any, *, pop: bool) -> gt.Losses:
        logits = model(X)
        aux = nnx.pop(model, nnx.Intermediate) if pop else None
        return gt.Losses(logits, lambda logits: cross_entropy(logits, Y), aux=aux)

    model = Recording()
    for pop in (False, True):
        step = gt.nnx.make_step(
            model, gt.implicit(BASE), lambda model, pop=pop: losses(model, pop=pop)
        )
        if pop:
            aux: Any = nnx.as_pure(step().aux)
            assert aux["logits"].shape == (6, 3)
        else:
            with pytest.raises(ValueError, match="adds variables to the model or removes them: l"):
                step()
