"""Paired training runs on the digits: base against implicit weights and same-cost competitors.

    python benchmarks/evidence.py --net mlp --out docs/evidence/mlp.json
    python benchmarks/evidence.py --net conv --bases sgd_momentum adam --out docs/evidence/conv.json
    python benchmarks/evidence.py --table docs/evidence/mlp.json docs/evidence/conv.json
    python benchmarks/evidence.py --retime docs/evidence/conv.json      (on a quiet machine)

Same seeds, initial parameters, batches and hyper-parameters for every method. The base runs longer
than the others, so that it can also be compared at equal time: with as many more epochs as a
method's step is dearer, which is measured here in an interleaved run.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib
from scipy import stats

import gtddp_jax as gt
from gtddp_jax.evidence.timing import compiled, interleaved, ratio
from gtddp_jax.training.data import load

LOSS = optax.softmax_cross_entropy_with_integer_labels

BASES: dict[str, tuple[Callable[[Any], Any], tuple[float, ...]]] = {
    "sgd_momentum": (lambda rate: optax.sgd(rate, 0.9), (0.01, 0.03, 0.1)),
    "adam": (optax.adam, (1e-3, 3e-3, 1e-2)),
    "rmsprop": (optax.rmsprop, (3e-4, 1e-3, 3e-3)),
    "sgd": (optax.sgd, (0.03, 0.1, 0.3)),
}
WEIGHTS = ("tail", "head", "product", "trial")
COMPETITORS = ("extragradient", "sam")
Step = Callable[..., Any]


class Residual(nn.Module):
    """Two dense layers with a skip connection."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, width] to [B, width]."""
        return x + nn.Dense(self.width)(nn.relu(nn.Dense(self.width)(x)))


def mlp() -> Any:
    """A residual multilayer perceptron (64 wide, four blocks) on 8x8 images."""
    flat = lambda x: x.reshape(x.shape[0], -1)  # noqa: E731
    return nn.Sequential([flat, nn.Dense(64), *[Residual(64) for _ in range(4)], nn.Dense(10)])


def conv() -> Any:
    """The paper's one-block network for DIGITS as a `gt.Network`."""
    from gtddp_jax.training.networks import residual_conv

    return residual_conv(10)


def methods(net: Any, base: Callable[[Any], Any], names: tuple[str, ...]) -> dict[str, Step]:
    """Steps `(rate, params, state, batch) -> (params, state, loss)` and `init` by method name."""

    def mean(params: Any, batch: Any) -> jax.Array:
        return LOSS(net.apply(params, batch[0]), batch[1]).mean()

    def plain(rate: Any, params: Any, state: Any, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(mean)(params, batch)
        updates, state = base(rate).update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    def extragradient(rate: Any, params: Any, state: Any, batch: Any) -> Any:
        value, first = jax.value_and_grad(mean)(params, batch)
        ahead = optax.apply_updates(params, base(rate).update(first, state, params)[0])
        second = jax.grad(mean)(ahead, batch)
        average = jax.tree.map(lambda a, b: 0.5 * (a + b), first, second)
        updates, state = base(rate).update(average, state, params)
        return optax.apply_updates(params, updates), state, value

    def sam_tx(rate: Any) -> Any:
        adversary = optax.chain(contrib.normalize(), optax.sgd(0.05))
        return contrib.sam(base(rate), adversary, opaque_mode=True)

    def sam(rate: Any, params: Any, state: Any, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(mean)(params, batch)
        updates, state = sam_tx(rate).update(
            gradient, state, params, grad_fn=lambda p, _: jax.grad(mean)(p, batch)
        )
        return optax.apply_updates(params, updates), state, value

    def implicit_tx(rate: Any, name: str) -> Any:
        options: dict[str, Any] = {"tail": "head"} if name == "head" else {"weights": name}
        return gt.implicit(base(rate), net.apply, LOSS, **options)

    def implicit(name: str) -> Step:
        def step(rate: Any, params: Any, state: Any, batch: Any) -> Any:
            updates, state = implicit_tx(rate, name).update(None, state, params, batch=batch)
            return optax.apply_updates(params, updates), state, state.report.loss

        return step

    steps: dict[str, Step] = {}
    for name in names:
        if name in WEIGHTS:
            steps[name] = implicit(name)
            steps[name].init = lambda rate, p, name=name: implicit_tx(rate, name).init(p)  # type: ignore
        else:
            steps[name] = {"base": plain, "extragradient": extragradient, "sam": sam}[name]
            make = sam_tx if name == "sam" else base
            steps[name].init = lambda rate, p, make=make: make(rate).init(p)  # type: ignore
    return steps


class Runner:
    """Trains many seeds of one method; compiled once for all learning rates."""

    def __init__(self, net: Any, step: Step, data: Any, batch: int, together: bool) -> None:
        self._net, self._together = net, together
        self._x, self._y = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
        self._vx, self._vy = (
            jnp.asarray(data.validation_images),
            jnp.asarray(data.validation_labels),
        )
        self._batch = batch

        def one(rate: Any, params: Any, state: Any, index: Any) -> Any:
            return step(rate, params, state, (self._x[index], self._y[index]))

        def epoch(rate: Any, params: Any, state: Any, order: Any) -> Any:
            def body(carry: Any, index: Any) -> Any:
                params, state, value = one(rate, carry[0], carry[1], index)
                return (params, state), value

            carry, values = jax.lax.scan(body, (params, state), order)
            return *carry, values

        self._step = jax.jit(one)
        self._epoch = jax.jit(jax.vmap(epoch, in_axes=(None, 0, 0, 0)))
        self._init = step.init  # type: ignore[attr-defined]
        score = jax.vmap(self._score) if together else self._score
        self._judge = jax.jit(score)

    def _score(self, params: Any) -> Any:
        train = LOSS(self._net.apply(params, self._x), self._y).mean()
        right = self._net.apply(params, self._vx).argmax(-1) == self._vy
        return train, right.mean()

    def orders(self, seed: int, epoch: int) -> np.ndarray:
        """The batches of one epoch, [steps, batch]."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self._x))
        steps = len(order) // self._batch
        return order[: steps * self._batch].reshape(steps, self._batch)

    def run(self, rate: float, starts: list[Any], epochs: int) -> dict[str, list[list[float]]]:
        """Per seed and epoch: mean loss of the steps, training loss, validation accuracy."""
        rate_ = jnp.asarray(rate, jnp.float32)
        out: dict[str, list[list[float]]] = {"steps": [], "train": [], "validation": []}
        if self._together:
            params = jax.tree.map(lambda *xs: jnp.stack(xs), *starts)
            state = jax.vmap(lambda p: self._init(rate_, p))(params)
            for e in range(epochs):
                order = jnp.asarray(np.stack([self.orders(s, e) for s in range(len(starts))]))
                params, state, values = self._epoch(rate_, params, state, order)
                train, right = self._judge(params)
                out["steps"].append(np.asarray(values.mean(1)).tolist())
                out["train"].append(np.asarray(train).tolist())
                out["validation"].append(np.asarray(right).tolist())
            return {k: np.array(v).T.tolist() for k, v in out.items()}
        for seed, params in enumerate(starts):
            state = self._init(rate_, params)
            rows: dict[str, list[float]] = {k: [] for k in out}
            for e in range(epochs):
                values = []
                for index in self.orders(seed, e):
                    params, state, value = self._step(rate_, params, state, index)
                    values.append(value)
                train, right = self._judge(params)
                rows["steps"].append(float(np.mean(jax.device_get(values))))
                rows["train"].append(float(train))
                rows["validation"].append(float(right))
            for k, row in rows.items():
                out[k].append(row)
        return out


def step_ratios(net: Any, steps: dict[str, Step], data: Any, batch: int) -> dict[str, float]:
    """Step time of each method as a multiple of the base's, interleaved, one seed."""
    x, y = jnp.asarray(data.train_images[:batch]), jnp.asarray(data.train_labels[:batch])
    params = net.init(jax.random.key(0), x[:1])
    rate = jnp.asarray(1e-3, jnp.float32)
    bound = {}
    for name, step in steps.items():
        state = step.init(rate, params)  # type: ignore[attr-defined]
        if name in ("tail", "head"):
            # Calibrated once, and at a step that does not calibrate.
            state = jax.jit(step)(rate, params, state, (x, y))[1]
            state = state._replace(step=jnp.asarray(3, jnp.int32))
        bound[name], _ = compiled(step, rate, params, state, (x, y))
    seconds = interleaved(bound, 101)
    return {name: ratio(seconds[name], seconds["base"]) for name in steps}


def retime(path: pathlib.Path) -> None:
    """Measures the step costs of a file of results again, all methods of a cell in one run."""
    cells, data = json.loads(path.read_text()), load("digits")
    groups = dict.fromkeys((c["net"], c["base"], c["batch"]) for c in cells)
    for net_name, base, batch in groups:
        mine = [c for c in cells if (c["net"], c["base"], c["batch"]) == (net_name, base, batch)]
        net = mlp() if net_name == "mlp" else conv()
        steps = methods(net, BASES[base][0], tuple(dict.fromkeys(c["method"] for c in mine)))
        ratios = step_ratios(net, steps, data, batch)
        for cell in mine:
            cell["step_ratio"] = ratios[cell["method"]]
        print(net_name, base, batch, {k: round(v, 2) for k, v in ratios.items()}, flush=True)
    path.write_text(json.dumps(cells))


def train(options: argparse.Namespace) -> None:
    """Runs the grid and writes it as JSON, cell by cell."""
    data = load("digits")
    net = mlp() if options.net == "mlp" else conv()
    starts = [
        net.init(jax.random.key(s), jnp.asarray(data.train_images[:1]))
        for s in range(options.seeds)
    ]
    names = ("base", *options.methods)
    cells: list[dict[str, Any]] = []
    for name in options.bases:
        base, rates = BASES[name]
        for batch, epochs in zip(options.batches, options.epochs, strict=True):
            steps = methods(net, base, names)
            ratios = step_ratios(net, steps, data, batch)
            for method, step in steps.items():
                runner = Runner(net, step, data, batch, together=options.net == "mlp")
                length = int(np.ceil(options.longest * epochs)) if method == "base" else epochs
                for rate in options.rates or rates:
                    start = time.perf_counter()
                    cell = {
                        "net": options.net,
                        "base": name,
                        "rate": rate,
                        "batch": batch,
                        "epochs": epochs,
                        "method": method,
                        "step_ratio": ratios[method],
                        **runner.run(rate, starts, length),
                    }
                    cell["seconds"] = time.perf_counter() - start
                    cells.append(cell)
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(cells))
                    print(name, batch, method, rate, f"{cell['seconds']:.0f} s", flush=True)


def interval(values: np.ndarray) -> str:
    """Mean and half-width of the 95 % confidence interval (Student's t) over seeds."""
    if not np.isfinite(values).all():
        return "diverged"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.2f} ± {half:.2f}"


def rows(cells: list[dict[str, Any]]) -> list[str]:
    """A Markdown row a cell and method, against the base of its cell."""
    key = ("net", "base", "rate", "batch")
    bases = {tuple(c[k] for k in key): c for c in cells if c["method"] == "base"}
    lines = []
    for cell in cells:
        if cell["method"] == "base":
            continue
        base, last = bases[tuple(cell[k] for k in key)], cell["epochs"] - 1
        same = min(round(cell["epochs"] * cell["step_ratio"]), len(base["train"][0])) - 1
        ours = {k: np.array(cell[k]) for k in ("steps", "train", "validation")}
        theirs = {k: np.array(base[k]) for k in ours}
        average = np.log(ours["steps"].mean(1) / theirs["steps"][:, : last + 1].mean(1))
        final = np.log(ours["train"][:, last] / theirs["train"][:, last])
        accuracy = 100 * (ours["validation"][:, last] - theirs["validation"][:, last])
        later = np.log(ours["train"][:, last] / theirs["train"][:, max(same, 0)])
        accuracy_later = 100 * (ours["validation"][:, last] - theirs["validation"][:, max(same, 0)])
        lines.append(
            f"| {cell['net']} | {cell['base']} {cell['rate']:g} | {cell['batch']} | "
            f"{cell['method']} | {cell['step_ratio']:.2f} | {theirs['train'][:, last].mean():.4f} "
            f"→ {ours['train'][:, last].mean():.4f} | {interval(average)} | {interval(final)} | "
            f"{interval(accuracy)} | {interval(later)} | {interval(accuracy_later)} |"
        )
    return lines


HEADER = """| net | base, rate | batch | method | step cost | final training loss | run average, \
log-ratio | final loss, log-ratio | validation, points | equal time: final loss, log-ratio | \
equal time: validation, points |
|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Trains, or prints the table of earlier runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=("mlp", "conv"), default="mlp")
    parser.add_argument("--bases", nargs="+", choices=tuple(BASES), default=tuple(BASES))
    parser.add_argument("--methods", nargs="+", default=(*WEIGHTS, *COMPETITORS))
    parser.add_argument("--batches", nargs="+", type=int, default=(8, 64))
    parser.add_argument("--epochs", nargs="+", type=int, default=(8, 12))
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--rates", nargs="+", type=float, default=None)
    parser.add_argument("--longest", type=float, default=2.6, help="epochs of the base, relative")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("evidence.json"))
    parser.add_argument("--table", nargs="+", type=pathlib.Path, default=None)
    parser.add_argument("--retime", type=pathlib.Path, default=None)
    options = parser.parse_args()
    if options.retime is not None:
        retime(options.retime)
    elif options.table is None:
        train(options)
    else:
        cells = [cell for path in options.table for cell in json.loads(path.read_text())]
        print("\n".join([HEADER, *rows(cells)]))


if __name__ == "__main__":
    main()
