"""Fig. 7b: EKFAC and its game-theoretic forms on a network of cooperative blocks (paper Sec. 6)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gtddp_jax as gt
from gtddp_jax.evidence.figures.intervals import band, mean_and_half, with_interval
from gtddp_jax.evidence.figures.training import CURVES, LOSS, Trainer
from gtddp_jax.evidence.pictures import canvas, save
from gtddp_jax.evidence.section import Options, Section
from gtddp_jax.training import networks
from gtddp_jax.training.data import DataError, Dataset, load
from gtddp_jax.training.plots import COLOURS

NAME = "figure7b"
RATE, DAMPING, BATCH = 1e-3, 0.03, 12  # the best training loss of EKFAC in a small grid
EPOCHS, LIMIT = 6, 2000
BASE = "EKFAC"
METHODS: dict[str, dict[str, Any]] = {
    BASE: {"feedback": False},
    "GT-EKFAC": {"feedback": False, "cooperative": "rescale"},
    "GT-DDP-EKFAC": {"cooperative": "rescale"},
    "joint EKFAC": {"feedback": False, "cooperative": "joint"},
}
"""The optimizers of Fig. 7b, and EKFAC with the true joint block, as options of `gt.ekfac`."""


def curves(
    data: Dataset,
    seeds: int,
    epochs: int,
    *,
    limit: int | None = None,
    net: Any = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, np.ndarray]]:
    """Trains by all methods from the same starts on the same batches.

    Args:
        data: the data set.
        seeds: number of seeds.
        epochs: of each run.
        limit: training and test images at most.
        net: the network; None for the paper's, `networks.cooperative`.
        say: is told of progress.

    Returns:
        `{method: {name of CURVES: [seeds, epochs]}}`.
    """
    net = networks.cooperative(data.classes) if net is None else net
    found = {}
    for name, options in METHODS.items():

        def optimizer(stats: Any, options: Any = options) -> Any:
            return gt.ekfac(net, LOSS, RATE, damping=DAMPING, momentum=0.9, **options)

        trainer = Trainer(net, optimizer, data, BATCH, limit)
        runs = [trainer.run(seed, epochs).curves for seed in range(seeds)]
        found[name] = {what: np.stack([run[what] for run in runs]) for what in CURVES}
        last = found[name]["train_loss"][:, -1].mean()
        say(f"figure 7b: {data.name}, {name}: training loss {last:.4f}")
    return found


def study(options: Options) -> Section:
    """Training and test loss and accuracy of the methods, with confidence bands."""
    quick, absent = options.quick, []
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    seeds, epochs = (2, 1) if quick else (options.seeds, EPOCHS)
    for name in options.datasets:
        try:
            folder = None if options.data_dir is None else Path(options.data_dir)
            data = load(name, folder)
        except DataError as error:
            absent.append(f"{name} ({error})")
            options.say(f"figure 7b: {error}")
            continue
        net = _small(data.classes) if quick else None
        limit = 48 if quick else LIMIT
        found[name] = curves(data, seeds, epochs, limit=limit, net=net, say=options.say)
    if not found:
        raise DataError(f"figure 7b: none of the data sets can be used: {'; '.join(absent)}.")
    files = _draw(found, options)
    numbers = {
        name: {
            method: {what: values.tolist() for what, values in measured.items()}
            for method, measured in methods.items()
        }
        for name, methods in found.items()
    }
    hyper = {"rate": RATE, "damping": DAMPING, "batch": BATCH, "seeds": seeds, "epochs": epochs}
    title = "Figure 7b: EKFAC on cooperative blocks"
    return Section(NAME, title, _text(found, absent), hyper | {"curves": _finite(numbers)}, files)


def _small(classes: int) -> gt.Network:
    import flax.linen as nn

    block = gt.Cooperative([nn.Dense(4), nn.Dense(4)])
    return gt.Network([networks.flatten, block, nn.tanh, nn.Dense(classes)])


def _finite(tree: Any) -> Any:
    """Numbers that are not finite become None."""
    if isinstance(tree, dict):
        return {name: _finite(part) for name, part in tree.items()}
    if isinstance(tree, list):
        return [_finite(part) for part in tree]
    return tree if np.isfinite(tree) else None


def _draw(found: dict[str, dict[str, dict[str, np.ndarray]]], options: Options) -> tuple[str, ...]:
    figure = canvas(len(CURVES), len(found), 3.25)
    grid = figure.subplots(len(found), len(CURVES), squeeze=False)
    for (name, methods), row in zip(found.items(), grid, strict=True):
        for what, axes in zip(CURVES, row, strict=True):
            log = what.endswith("loss")
            for colour, (method, measured) in zip(COLOURS, methods.items(), strict=False):
                values = measured[what] if log else 100 * measured[what]
                epochs = np.arange(1, values.shape[1] + 1)
                band(axes, epochs, values, method, colour, log)
            if log:
                axes.set_yscale("log")
            axes.set(xlabel="epoch", title=f"{name}: {what.replace('_', ' ')}")
            axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize="small")
    return save(figure, options.out, NAME)


def _row(method: str, measured: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> str:
    cells = []
    for what in CURVES:
        scale, digits = (1, 4) if what.endswith("loss") else (100, 1)
        mean, half = mean_and_half(scale * measured[what][:, -1])
        cells.append(with_interval(float(mean), float(half), f".{digits}f"))
    ratio = ""
    if method != BASE:
        ratio = with_interval(*log_ratio(measured, base), "+.2f")
    return f"| {method} | {' | '.join(cells)} | {ratio} |"


def log_ratio(measured: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> tuple[float, float]:
    """Paired log-ratio of the last training losses to the base's: mean and half-width, 95 %."""
    ratio = np.log(measured["train_loss"][:, -1] / base["train_loss"][:, -1])
    mean, half = mean_and_half(ratio)
    return float(mean), float(half)


def verdict(methods: dict[str, dict[str, np.ndarray]]) -> str:
    """Whether the paper's order is seen in the training loss, in a sentence.

    Args:
        methods: as from `curves`.
    """

    def judged(method: str, to: str) -> tuple[bool, str]:
        mean, half = log_ratio(methods[method], methods[to])
        if not np.isfinite(mean):
            broken = method if not np.isfinite(methods[method]["train_loss"]).all() else to
            return False, f"{broken} diverged for a seed"
        word = "within noise of" if abs(mean) <= half else "below" if mean < 0 else "above"
        figures = with_interval(mean, half, "+.2f")
        text = f"{method} ends {word} {to} in training loss ({figures})"
        return mean < -half, text

    first, second = judged("GT-EKFAC", BASE), judged("GT-DDP-EKFAC", "GT-EKFAC")
    texts = [text for _, text in (first, second, judged("joint EKFAC", BASE))]
    order = "is repeated" if first[0] and second[0] else "is not repeated"
    if len(methods[BASE]["train_loss"]) < 2:
        return f"One seed shows no order: {'; '.join(texts)}."
    return f"The paper's order {order}: {'; '.join(texts)}."


def _text(found: dict[str, dict[str, dict[str, np.ndarray]]], absent: list[str]) -> str:
    some = next(iter(found.values()))[BASE]["train_loss"]
    lines = [
        "*The paper* (MNIST): GT-EKFAC, EKFAC with the rescaling of Corollary 7, converges better "
        "than EKFAC, and GT-DDP-EKFAC better still.",
        "",
        "*What is compared:* the network of Sec. 6 (three convolutional cooperative blocks, one "
        f"dense one, one dense layer, tanh), batch {BATCH}, momentum 0.9, rate {RATE:g} and "
        f"damping {DAMPING:g}, where EKFAC has its lowest training loss in a small grid; "
        f"{some.shape[0]} seeds, {some.shape[1]} epochs, the same starts and batches for all; at "
        f"most {LIMIT} training and test images. A fourth method, `joint`, is EKFAC with the true "
        "Gauss–Newton block of both players. ± is the half-width of the 95 % confidence interval; "
        "log-ratios are paired.",
    ]
    for name, methods in found.items():
        lines += [
            "",
            f"**{name}**",
            "",
            "| method | training loss | training accuracy, % | test loss | test accuracy, % | "
            "training loss, log-ratio to EKFAC |",
            "|---|---|---|---|---|---|",
            *(_row(method, measured, methods[BASE]) for method, measured in methods.items()),
            "",
            verdict(methods),
        ]
    if absent:
        lines += ["", f"Not shown: {'; '.join(absent)}."]
    lines += ["", f"![Loss and accuracy of EKFAC and its game-theoretic forms]({NAME}.png)"]
    return "\n".join(lines)
