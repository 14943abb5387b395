"""A step of each game with the shapes and types of every function of the library checked.

A script of its own: jaxtyping's import hook works on modules that are not imported yet. Steps are
traced, not run; shapes are known then, and nothing is compiled.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import install_import_hook

hook = install_import_hook("gtddp_jax", "beartype.beartype")

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402

import gtddp_jax as gt  # noqa: E402

SAMPLES, CLASSES = 6, 3
TARGETS = jnp.arange(SAMPLES) % CLASSES
KEY = jax.random.key(0)


def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def images(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (SAMPLES, *shape))


def trace(tx: Any, params: Any, x: Any, **extra: Any) -> None:
    def step(params: Any) -> Any:
        state = tx.init(params)
        updates, _ = tx.update(None, state, params, batch=(x, TARGETS), **extra)
        return optax.apply_updates(params, updates)

    after = jax.eval_shape(step, params)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, params)


def dense() -> gt.Network:
    block = gt.Residual([nn.Dense(4), nn.tanh, nn.Dense(4)], nn.Dense(4), at=1)
    pair = gt.Cooperative([nn.Dense(4), nn.Dense(4)])
    return gt.Network([nn.Dense(4), nn.tanh, block, nn.tanh, pair, nn.Dense(CLASSES)])


def curvatures() -> None:
    net, x = dense(), images(5)
    params = net.init(KEY, x)
    trace(gt.sgd(net, loss, 0.1, terminal=gt.terminal.ProjectedHessian()), params, x)
    trace(
        gt.adamw(net, loss, optax.linear_schedule(0.1, 0.0, 5), equilibrium="open_loop"), params, x
    )
    trace(gt.gtddp(net, loss, gt.curvature.FromOptax(optax.lion(0.1))), params, x)
    trace(gt.kfac(net, loss, 0.1, cooperative="joint", rollout="nonlinear"), params, x)
    trace(gt.ekfac(net, loss, 0.1), params, x)
    trace(gt.soap(net, loss, 0.1), params, x)


def layers() -> None:
    x = images(6, 6, 2)
    conv = [nn.Conv(3, (3, 3)), nn.BatchNorm(), nn.relu, lambda x: x.mean((1, 2))]
    net = gt.Network([*conv, nn.Dropout(0.5), nn.LayerNorm(), nn.Dense(CLASSES)])
    variables: Any = net.init_variables(KEY, x)
    tx = gt.adam(net, loss, 0.1, batch_stats=variables["batch_stats"])
    trace(tx, variables["params"], x, rngs={"dropout": KEY})
    net.apply(**variables, x=x)


def flax_models() -> None:
    x = images(5)
    linen = nn.Sequential([nn.Dense(4), nn.gelu, nn.LayerNorm(), nn.Dense(CLASSES)])
    net = gt.from_flax(linen, x)
    trace(gt.adam(net, loss, 0.1), linen.init(KEY, x)["params"], x)
    model = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), nnx.relu)
    trace(gt.sgd(gt.from_flax(model, x), loss, 0.1), nnx.state(model, nnx.Param), x)


def implicit() -> None:
    net, x = dense(), images(5)
    params = net.init(KEY, x)
    for weighting in ("sketch", "exact"):
        trace(gt.implicit(optax.adam(0.1), net, loss, weighting=weighting), params, x)
    look = gt.implicit_weights(optax.sgd(0.1), net, loss, weighting="full")
    state = gt.implicit(optax.sgd(0.1), net, loss, weighting="full").init(params)
    assert jax.eval_shape(look, state, params, (x, TARGETS)).shape == (SAMPLES,)


def joint() -> None:
    def residual(params: Any, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ params["a"]) @ params["b"] - 1.0

    def logits(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["b"]

    x, y = images(5), images(4)
    params = {"a": jnp.ones((5, 4)), "b": jnp.ones((4, CLASSES))}
    terms = {"pde": residual, "fit": gt.supervised_term(logits, loss)}
    batch = {"pde": x, "fit": (y, TARGETS)}
    rule, metrics = gt.step_control.FixedRate(0.1), gt.metrics
    for tx in (
        gt.joint(terms, side="dual", metric=metrics.AdamMetric()),
        gt.joint(terms, gt.damping.LevenbergMarquardt(), 0.9, metrics.MARCHMetric(), side="primal"),
        gt.joint(terms, 0.1, side="matrix_free", chunk=4, step=rule),
    ):
        jax.eval_shape(lambda tx=tx: tx.update(None, tx.init(params), params, batch=batch))

    def losses(params: Any) -> gt.Losses:
        return gt.Losses(logits(params, y), lambda outputs: loss(outputs, TARGETS))

    jax.eval_shape(lambda: gt.make_step(gt.joint(), losses)(params, gt.joint().init(params)))


def reference() -> None:
    net, x = gt.Network([nn.Dense(2), nn.tanh, nn.Dense(CLASSES)]), images(2)
    params = net.init(KEY, x)

    def inverse(t: int, q: jax.Array) -> jax.Array:
        return 0.1 * jnp.eye(q.size)

    gains = gt.reference.preconditioned_gains(inverse)

    def both(params: Any) -> Any:
        given = (net.stages, params, x, lambda outputs: loss(outputs, TARGETS))
        for hessian in gt.reference.HESSIANS.values():
            gt.reference.ddp_step(*given, hessian, gains)
        none = jnp.zeros((0, 0))
        return gt.reference.collapsed_step(*given, lambda t, q: gains(t, q, none, none))

    jax.eval_shape(both, params)


PARTS: tuple[Callable[[], None], ...] = (
    curvatures,
    layers,
    flax_models,
    implicit,
    joint,
    reference,
)

if __name__ == "__main__":
    for part in PARTS:
        part()
        print(part.__name__)
