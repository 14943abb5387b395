"""Which players a model has, when they act, and what `explain` says about them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gtddp_jax as gt
from gtddp_jax.network.sample_gradients.layer_descriptions import ConvLayer, DenseLayer, OtherLayer
from tests.flax_models import zoo


def network(name: str, **options: Any) -> gt.TracedNetwork:
    spec = zoo.ZOO[name]
    inputs = spec.inputs(np.random.default_rng(0), 3)
    return gt.from_flax(spec.make(), inputs, **{**spec.options, **options})


def stage_of(net: gt.TracedNetwork, name: str) -> int:
    return next(t for t, stage in enumerate(net.stages) if name in stage.players)


def test_players_without_a_path_between_them_share_a_stage() -> None:
    attention = "Block_0/MultiHeadDotProductAttention_0"
    vit = network("vit")
    three = [stage_of(vit, f"{attention}/{part}") for part in ("query", "key", "value")]
    assert len(set(three)) == 1
    assert stage_of(vit, f"{attention}/out") == three[0] + 1
    resnet = network("resnet")
    assert stage_of(resnet, "Conv_3") == stage_of(resnet, "Conv_1") < stage_of(resnet, "Conv_2")
    assert stage_of(network("gpt"), "Embed_0") == 0


class Queries(nn.Module):
    """Learned queries, which enter a layer before they meet data."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        q = self.param("queries", nn.initializers.normal(1.0), (1, 3, 4))
        q = jnp.broadcast_to(q, (x.shape[0], 3, 4))
        return nn.Dense(2)(nn.MultiHeadDotProductAttention(2)(q, nn.Dense(4)(x)))


def test_parameters_that_enter_a_layer_before_data_act_before_it() -> None:
    net = gt.from_flax(Queries(), jnp.ones((2, 5, 4)))
    attention = "MultiHeadDotProductAttention_0"
    stages = [stage_of(net, name) for name in ("queries", f"{attention}/query", f"{attention}/out")]
    assert stages == sorted(set(stages)) and stages[0] == 0
    assert not net.example_trace.schedule.reused_players


def test_layers_of_players() -> None:
    layers = {
        player_op.name: player_op.module
        for stage in network("vit").stages
        for player_op in stage.player_ops
    }
    attention = "Block_0/MultiHeadDotProductAttention_0"
    assert layers[f"{attention}/query"] == DenseLayer(4, use_bias=True)
    assert layers[f"{attention}/out"] == DenseLayer(4, use_bias=True)
    assert isinstance(layers["Conv_0"], ConvLayer) and layers["Conv_0"].use_bias
    assert layers["cls"] == OtherLayer("broadcast_in_dim")
    assert isinstance(layers["LayerNorm_0"], OtherLayer)


class Kernel(nn.Module):
    """A product with a kernel that is used in one of three ways."""

    use: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3))
        return (
            x @ {"as it is": kernel, "transposed": kernel.T, "computed": jnp.tanh(kernel)}[self.use]
        )


@pytest.mark.parametrize("use", ["as it is", "transposed", "computed"])
def test_only_a_kernel_as_it_is_makes_a_dense_layer(use: str) -> None:
    """A transposed or computed kernel has other Kronecker factors than its parameter."""
    net = gt.from_flax(Kernel(use), jnp.ones((2, 3)))
    ((player_op,),) = [stage.player_ops for stage in net.stages]
    assert isinstance(player_op.module, DenseLayer) == (use == "as it is")


def test_explain_says_why_modules_form_one_player() -> None:
    text = network("lstm").explain()
    assert text == gt.explain(network("lstm"))
    assert "8 modules act as one, in scan" in text
    gpt = gt.explain(network("gpt"))
    assert "used again later" in gpt and "19 players" in gpt
    kfac = gt.curvature.KFAC(0.1, other=gt.curvature.Adam(0.1))
    table = gt.explain(network("vit"), curvature=kfac)
    assert "5 x 4" in table and "Adam" in table


def test_cost_rules_follow_the_batch() -> None:
    model = nn.Dense(2048)
    net = gt.from_flax(model, jax.ShapeDtypeStruct((2, 3, 600), jnp.float32))
    assert "recomputed" in gt.explain(net)
    assert "factored" in gt.explain(gt.from_flax(model, jnp.ones((2, 600))))


class Unused(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.used, self.idle = nnx.Linear(3, 2, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.used(x)


@pytest.mark.slow
def test_parameters_without_influence_are_reported_and_unchanged() -> None:
    model, x = Unused(nnx.Rngs(0)), jnp.ones((2, 3))
    net = gt.from_flax(model, x)
    assert net.players == ("used", "unused")
    assert "no influence on the outputs: idle/bias, idle/kernel" in gt.explain(net)
    with pytest.raises(gt.NetworkError, match="no influence"):
        gt.from_flax(model, x, unsupported="error")
    params = net.init(jax.random.key(0), x)
    tx: Any = gt.sgd(net, lambda outputs, y: jnp.square(outputs).sum(-1), 0.1)
    step, _ = tx.update(None, tx.init(params), params, batch=(x, None))
    moved: Any = net.split(step)
    assert not moved["unused"]["idle/kernel"].any() and moved["used"]["kernel"].any()


class CountingCalls(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        calls = self.variable("memory", "calls", jnp.zeros, ())
        if not self.is_initializing():
            calls.value = calls.value + 1
        return nn.Dense(2)(nn.BatchNorm(use_running_average=False)(x))


@pytest.mark.slow
def test_other_collections_are_kept_by_name() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    net = gt.from_flax(CountingCalls(), x)
    variables: Any = net.init_variables(jax.random.key(0), x)
    assert set(variables["batch_stats"]) == {"batch_stats", "memory"}
    params, stats = variables["params"], variables["batch_stats"]
    tx: Any = gt.sgd(net, lambda o, y: jnp.square(o).sum(-1), 0.1, batch_stats=stats)
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(None, state, params, batch=(x, None))
    assert state.batch_stats["memory"]["calls"] == 2


def test_wrong_options_are_refused() -> None:
    with pytest.raises(gt.NetworkError, match="invalid unsupported: 'drop'"):
        network("perceptron", unsupported="drop")
