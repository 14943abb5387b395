"""Short runs of every base method in both games, whose results are stored and compared.

    python -m tests.reproducibility.golden [RUN ...]   # print them, or some of them
    python -m tests.reproducibility.golden --write     # after an intended change: renew golden.json

Data and initial parameters come from a NumPy generator with a fixed stream, in float64, so only the
algorithm and (in the last digits) the version of JAX can change the results.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt

GOLDEN = Path(__file__).with_name("golden.json")
STEPS = 6
SAMPLES, FEATURES, CLASSES = 8, 5, 3
Transformation = optax.GradientTransformationExtraArgs


def loss(outputs: Any, targets: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def network() -> gt.Network:
    block = gt.Residual([nn.Dense(6), nn.tanh])
    return gt.Network([nn.Dense(6), nn.tanh, block, nn.Dense(CLASSES)])


def sequential() -> dict[str, Callable[[gt.Network], Transformation]]:
    """The sequential game on each base method."""
    kronecker: dict[str, Any] = {"momentum": 0.9, "refresh_every": 2}
    return {
        "sgd": lambda net: gt.sgd(net, loss, 0.1, momentum=0.9),
        "rmsprop": lambda net: gt.rmsprop(net, loss, 0.02),
        "adam": lambda net: gt.adam(net, loss, 0.05),
        "adamw": lambda net: gt.adamw(net, loss, 0.05, weight_decay=0.1),
        "kfac": lambda net: gt.kfac(net, loss, 0.05, damping=0.1, **kronecker),
        "ekfac": lambda net: gt.ekfac(net, loss, 0.05, damping=0.1, **kronecker),
        "from_optax(adagrad)": lambda net: gt.gtddp(
            net, loss, gt.curvature.FromOptax(optax.adagrad(0.1)), rollout="nonlinear"
        ),
    }


def implicit() -> dict[str, Callable[[gt.Network], Transformation]]:
    """The implicit game on the base methods that are optax transformations."""
    bases: dict[str, Any] = {
        "sgd": optax.sgd(0.1, momentum=0.9),
        "rmsprop": optax.rmsprop(0.02),
        "adam": optax.adam(0.05),
        "adamw": optax.adamw(0.05, weight_decay=0.1),
        "adagrad": optax.adagrad(0.1),
    }
    return {
        name: lambda net, base=base: gt.implicit(base, net, loss) for name, base in bases.items()
    }


def runs() -> dict[str, Callable[[gt.Network], Transformation]]:
    """All runs by name."""
    games = {"sequential": sequential(), "implicit": implicit()}
    return {f"{game} {name}": make for game, table in games.items() for name, make in table.items()}


def run(make: Callable[[gt.Network], Transformation]) -> dict[str, Any]:
    """A short run on fixed data from fixed parameters.

    Returns:
        The loss before each step, further fields of the report, the norm of each player's
        parameters after the run, and a digest of all their bytes.
    """
    numbers = np.random.RandomState(0)
    x = jnp.asarray(numbers.normal(size=(STEPS, SAMPLES, FEATURES)))
    y = jnp.asarray(numbers.randint(0, CLASSES, size=(STEPS, SAMPLES)))
    net = network()
    shapes = jax.eval_shape(net.init, jax.random.key(0), x[0])
    params = jax.tree.map(lambda p: jnp.asarray(0.5 * numbers.normal(size=p.shape)), shapes)
    tx: Any = make(net)

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        before = loss(net.apply(params, batch[0]), batch[1]).mean()
        updates, state = tx.update(None, state, params, batch=batch)
        report = state.report
        figures = (
            before,
            report.sample_weight_min,
            report.sample_weight_max,
            report.predicted_change,
        )
        return (optax.apply_updates(params, updates), state), figures

    @jax.jit
    def steps(params: Any) -> Any:
        (params, _), figures = jax.lax.scan(step, (params, tx.init(params)), (x, y))
        return params, figures

    params, figures = steps(params)
    names = ("loss", "sample_weight_min", "sample_weight_max", "predicted_change")
    found: dict[str, Any] = {n: np.asarray(v).tolist() for n, v in zip(names, figures, strict=True)}
    found["parameters"] = {name: _norm(own) for name, own in params.items()}
    everything = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))
    return found | {"digest": hashlib.sha256(everything).hexdigest()}


def _norm(tree: Any) -> float:
    return float(np.linalg.norm(np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])))


def main(arguments: list[str]) -> None:
    """Executes some or all runs, and prints or stores their results."""
    jax.config.update("jax_enable_x64", True)
    table = runs()
    if arguments != ["--write"]:
        print(json.dumps({name: run(table[name]) for name in arguments or table}))
        return
    found = {name: run(make) for name, make in table.items()}
    for figures in found.values():
        del figures["digest"]  # bytes differ between machines
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
