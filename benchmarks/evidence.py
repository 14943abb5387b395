"""Paired training runs on the digits: a base against the implicit game and competitors.

    python benchmarks/evidence.py --net mlp --out mlp.json
    python benchmarks/evidence.py --net conv --bases sgd_momentum adam --out conv.json
    python benchmarks/evidence.py --table mlp.json conv.json
    python benchmarks/evidence.py --retime conv.json      (on an idle machine)

All methods share seeds, initial parameters, batches and hyperparameters. The base trains for more
epochs, so that it can also be compared at equal wall-clock time. For this, the script measures step
times in one interleaved run.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib
from scipy import stats

import gtddp_jax as gt
from gtddp_lab.data import Dataset, load_dataset
from gtddp_lab.networks import residual_conv
from gtddp_lab.studies.step_timing import compile_step, median_ratio, time_interleaved

LOSS = optax.softmax_cross_entropy_with_integer_labels

BASES: dict[str, tuple[Callable[[Any], Any], tuple[float, ...]]] = {
    "sgd_momentum": (lambda rate: optax.sgd(rate, 0.9), (0.01, 0.03, 0.1)),
    "adam": (optax.adam, (1e-3, 3e-3, 1e-2)),
    "rmsprop": (optax.rmsprop, (3e-4, 1e-3, 3e-3)),
    "sgd": (optax.sgd, (0.03, 0.1, 0.3)),
}
"""Base optimizers by name, with the learning rates of the grid."""

WEIGHTINGS = ("sketch", "full")
"""Weightings of the implicit game."""

COMPETITORS = ("extragradient", "sam")
FIGURES = ("steps", "train", "validation")
"""Stored per seed and epoch: mean loss of the steps, training loss, validation accuracy."""


class Method(NamedTuple):
    """A training method.

    Attributes:
        init: Maps (rate, params) to the initial optimizer state.
        step: Maps (rate, params, state, batch) to (params, state, loss).
    """

    init: Callable[[Any, Any], Any]
    step: Callable[[Any, Any, Any, Any], Any]


class Residual(nn.Module):
    """Two dense layers with a skip connection."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, width] to [B, width]."""
        return x + nn.Dense(self.width)(nn.relu(nn.Dense(self.width)(x)))


def flatten_images(x: jax.Array) -> jax.Array:
    """[B, height, width, channels] to [B, features]."""
    return x.reshape(x.shape[0], -1)


def build_net(name: str) -> Any:
    """Build the residual MLP (64 wide, four blocks) or the paper's network for DIGITS."""
    if name == "conv":
        return residual_conv(10)
    blocks = [Residual(64) for _ in range(4)]
    return nn.Sequential([flatten_images, nn.Dense(64), *blocks, nn.Dense(10)])


def build_methods(
    net: Any, base: Callable[[Any], Any], names: tuple[str, ...]
) -> dict[str, Method]:
    """Build the methods with the given names around a base optimizer."""

    def mean_loss(params: Any, batch: Any) -> jax.Array:
        return LOSS(net.apply(params, batch[0]), batch[1]).mean()

    def plain_step(rate: Any, params: Any, state: Any, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(mean_loss)(params, batch)
        updates, state = base(rate).update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    def extragradient_step(rate: Any, params: Any, state: Any, batch: Any) -> Any:
        value, first = jax.value_and_grad(mean_loss)(params, batch)
        ahead = optax.apply_updates(params, base(rate).update(first, state, params)[0])
        second = jax.grad(mean_loss)(ahead, batch)
        average = jax.tree.map(lambda a, b: 0.5 * (a + b), first, second)
        updates, state = base(rate).update(average, state, params)
        return optax.apply_updates(params, updates), state, value

    def sam_optimizer(rate: Any) -> Any:
        adversary = optax.chain(contrib.normalize(), optax.sgd(0.05))
        return contrib.sam(base(rate), adversary, opaque_mode=True)

    def sam_step(rate: Any, params: Any, state: Any, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(mean_loss)(params, batch)
        updates, state = sam_optimizer(rate).update(
            gradient, state, params, grad_fn=lambda params, _: jax.grad(mean_loss)(params, batch)
        )
        return optax.apply_updates(params, updates), state, value

    def implicit_method(name: str) -> Method:
        def optimizer(rate: Any) -> Any:
            model = net if isinstance(net, gt.Network) else net.apply
            return gt.implicit(base(rate), model, LOSS, weighting=name)

        def step(rate: Any, params: Any, state: Any, batch: Any) -> Any:
            updates, state = optimizer(rate).update(None, state, params, batch=batch)
            return optax.apply_updates(params, updates), state, state.report.loss

        return Method(lambda rate, params: optimizer(rate).init(params), step)

    def init_base(rate: Any, params: Any) -> Any:
        return base(rate).init(params)

    others = {
        "base": Method(init_base, plain_step),
        "extragradient": Method(init_base, extragradient_step),
        "sam": Method(lambda rate, params: sam_optimizer(rate).init(params), sam_step),
    }
    return {name: implicit_method(name) if name in WEIGHTINGS else others[name] for name in names}


class Runner:
    """Trains all seeds of one method; compiled once for all learning rates."""

    def __init__(
        self, net: Any, method: Method, dataset: Dataset, batch_size: int, together: bool
    ) -> None:
        self._net, self._init, self._together = net, method.init, together
        self._inputs = jnp.asarray(dataset.train_images)
        self._labels = jnp.asarray(dataset.train_labels)
        self._validation_inputs = jnp.asarray(dataset.validation_images)
        self._validation_labels = jnp.asarray(dataset.validation_labels)
        self._batch_size = batch_size

        def run_step(rate: Any, params: Any, state: Any, rows: Any) -> Any:
            return method.step(rate, params, state, (self._inputs[rows], self._labels[rows]))

        def run_epoch(rate: Any, params: Any, state: Any, order: Any) -> Any:
            def body(carry: Any, rows: Any) -> Any:
                params, state, value = run_step(rate, carry[0], carry[1], rows)
                return (params, state), value

            carry, values = jax.lax.scan(body, (params, state), order)
            return *carry, values

        self._step = jax.jit(run_step)
        self._epoch = jax.jit(jax.vmap(run_epoch, in_axes=(None, 0, 0, 0)))
        self._scores = jax.jit(jax.vmap(self._score_params) if together else self._score_params)

    def _score_params(self, params: Any) -> Any:
        train = LOSS(self._net.apply(params, self._inputs), self._labels).mean()
        outputs = self._net.apply(params, self._validation_inputs)
        return train, (outputs.argmax(-1) == self._validation_labels).mean()

    def epoch_order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the batches of one epoch, [steps, batch]."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self._inputs))
        steps = len(order) // self._batch_size
        return order[: steps * self._batch_size].reshape(steps, self._batch_size)

    def train_seeds(
        self, rate: float, starts: list[Any], epochs: int
    ) -> dict[str, list[list[float]]]:
        """Train from the given parameters, and return the figures [seeds, epochs]."""
        traced_rate = jnp.asarray(rate, jnp.float32)  # one program for all rates
        train = self._train_together if self._together else self._train_in_turn
        return train(traced_rate, starts, epochs)

    def _train_together(
        self, rate: jax.Array, starts: list[Any], epochs: int
    ) -> dict[str, list[list[float]]]:
        figures: dict[str, list[Any]] = {name: [] for name in FIGURES}
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
        state = jax.vmap(lambda params: self._init(rate, params))(params)
        for epoch in range(epochs):
            orders = [self.epoch_order(seed, epoch) for seed in range(len(starts))]
            params, state, values = self._epoch(rate, params, state, jnp.asarray(np.stack(orders)))
            train, validation = self._scores(params)
            for name, value in zip(FIGURES, (values.mean(1), train, validation), strict=True):
                figures[name].append(np.asarray(value).tolist())
        return {name: np.array(rows).T.tolist() for name, rows in figures.items()}

    def _train_in_turn(
        self, rate: jax.Array, starts: list[Any], epochs: int
    ) -> dict[str, list[list[float]]]:
        figures: dict[str, list[list[float]]] = {name: [] for name in FIGURES}
        for seed, params in enumerate(starts):
            state = self._init(rate, params)
            course: dict[str, list[float]] = {name: [] for name in FIGURES}
            for epoch in range(epochs):
                values = []
                for rows in self.epoch_order(seed, epoch):
                    params, state, value = self._step(rate, params, state, rows)
                    values.append(value)
                train, validation = self._scores(params)
                mean_value = np.mean(jax.device_get(values))
                for name, figure in zip(FIGURES, (mean_value, train, validation), strict=True):
                    course[name].append(float(figure))
            for name in FIGURES:
                figures[name].append(course[name])
        return figures


def step_ratios(
    net: Any, methods: dict[str, Method], dataset: Dataset, batch_size: int
) -> dict[str, float]:
    """Measure the step time of each method as a multiple of the base's, interleaved, one seed."""
    inputs = jnp.asarray(dataset.train_images[:batch_size])
    batch = (inputs, jnp.asarray(dataset.train_labels[:batch_size]))
    params = net.init(jax.random.key(0), inputs[:1])
    rate = jnp.asarray(1e-3, jnp.float32)
    steps = {}
    for name, method in methods.items():
        state = method.init(rate, params)
        steps[name], _ = compile_step(method.step, rate, params, state, batch)
    seconds = time_interleaved(steps, 101)
    return {name: median_ratio(seconds[name], seconds["base"]) for name in methods}


def retime_file(path: pathlib.Path) -> None:
    """Measure the step times of a file of results again, all methods of a cell in one run."""
    cells, dataset = json.loads(path.read_text()), load_dataset("digits")
    groups = dict.fromkeys((cell["net"], cell["base"], cell["batch"]) for cell in cells)
    for net_name, base, batch_size in groups:
        members = [
            cell
            for cell in cells
            if (cell["net"], cell["base"], cell["batch"]) == (net_name, base, batch_size)
        ]
        net = build_net(net_name)
        names = tuple(dict.fromkeys(cell["method"] for cell in members))
        ratios = step_ratios(net, build_methods(net, BASES[base][0], names), dataset, batch_size)
        for cell in members:
            cell["step_ratio"] = ratios[cell["method"]]
        shown = {name: round(ratio, 2) for name, ratio in ratios.items()}
        print(net_name, base, batch_size, shown, flush=True)
    path.write_text(json.dumps(cells))


def train_grid(options: argparse.Namespace) -> None:
    """Train the grid, and write the results as JSON after each cell."""
    dataset, net = load_dataset("digits"), build_net(options.net)
    starts = [
        net.init(jax.random.key(seed), jnp.asarray(dataset.train_images[:1]))
        for seed in range(options.seeds)
    ]
    names = ("base", *options.methods)
    cells: list[dict[str, Any]] = []
    for base_name in options.bases:
        base, rates = BASES[base_name]
        for batch_size, epochs in zip(options.batches, options.epochs, strict=True):
            methods = build_methods(net, base, names)
            ratios = step_ratios(net, methods, dataset, batch_size)
            for name, method in methods.items():
                runner = Runner(net, method, dataset, batch_size, together=options.net == "mlp")
                length = int(np.ceil(options.longest * epochs)) if name == "base" else epochs
                for rate in options.rates or rates:
                    start = time.perf_counter()
                    cell = {
                        "net": options.net,
                        "base": base_name,
                        "rate": rate,
                        "batch": batch_size,
                        "epochs": epochs,
                        "method": name,
                        "step_ratio": ratios[name],
                        **runner.train_seeds(rate, starts, length),
                    }
                    cell["seconds"] = time.perf_counter() - start
                    cells.append(cell)
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(cells))
                    print(base_name, batch_size, name, rate, f"{cell['seconds']:.0f} s", flush=True)


def interval_text(values: np.ndarray) -> str:
    """Mean over seeds and half-width of its 95 % confidence interval (Student's t)."""
    if not np.isfinite(values).all():
        return "diverged"
    half_width = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.2f} ± {half_width:.2f}"


def table_rows(cells: list[dict[str, Any]]) -> list[str]:
    """Return one Markdown row per cell and method, compared with the base of its cell."""
    fields = ("net", "base", "rate", "batch")
    bases = {
        tuple(cell[field] for field in fields): cell for cell in cells if cell["method"] == "base"
    }
    lines = []
    for cell in cells:
        if cell["method"] == "base":
            continue
        base, last = bases[tuple(cell[field] for field in fields)], cell["epochs"] - 1
        # The epoch of the base after the time of the method, as far as the base was trained.
        after = min(round(cell["epochs"] * cell["step_ratio"]), len(base["train"][0])) - 1
        equal_time = max(after, 0)
        ours = {name: np.array(cell[name]) for name in FIGURES}
        theirs = {name: np.array(base[name]) for name in FIGURES}
        loss, accuracy = ours["train"][:, last], 100 * ours["validation"][:, last]
        average = np.log(ours["steps"].mean(1) / theirs["steps"][:, : last + 1].mean(1))
        columns = (
            average,
            np.log(loss / theirs["train"][:, last]),
            accuracy - 100 * theirs["validation"][:, last],
            np.log(loss / theirs["train"][:, equal_time]),
            accuracy - 100 * theirs["validation"][:, equal_time],
        )
        lines.append(
            f"| {cell['net']} | {cell['base']} {cell['rate']:g} | {cell['batch']} | "
            f"{cell['method']} | {cell['step_ratio']:.2f} | "
            f"{theirs['train'][:, last].mean():.4f} → {loss.mean():.4f} | "
            f"{' | '.join(map(interval_text, columns))} |"
        )
    return lines


HEADER = """| net | base, rate | batch | method | step cost | final training loss | run average, \
log-ratio | final loss, log-ratio | validation, points | equal time: final loss, log-ratio | \
equal time: validation, points |
|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Train, or print the table of stored results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=("mlp", "conv"), default="mlp")
    parser.add_argument("--bases", nargs="+", choices=tuple(BASES), default=tuple(BASES))
    parser.add_argument("--methods", nargs="+", default=(*WEIGHTINGS, *COMPETITORS))
    parser.add_argument("--batches", nargs="+", type=int, default=(8, 64))
    parser.add_argument("--epochs", nargs="+", type=int, default=(8, 12))
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--rates", nargs="+", type=float, default=None)
    parser.add_argument(
        "--longest", type=float, default=2.6, help="epochs of the base relative to the methods'"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("evidence.json"))
    parser.add_argument("--table", nargs="+", type=pathlib.Path, default=None)
    parser.add_argument("--retime", type=pathlib.Path, default=None)
    options = parser.parse_args()
    if options.retime is not None:
        retime_file(options.retime)
    elif options.table is None:
        train_grid(options)
    else:
        cells = [cell for path in options.table for cell in json.loads(path.read_text())]
        print("\n".join([HEADER, *table_rows(cells)]))


if __name__ == "__main__":
    main()
