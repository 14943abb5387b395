"""Fig. 7b: EKFAC and its game-theoretic forms on a network of cooperative blocks (paper Sec. 6)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import flax.linen as nn
import numpy as np

import gtddp_jax as gt
from gtddp_lab import networks
from gtddp_lab.data import DataError, Dataset, load_dataset
from gtddp_lab.studies.figures.figure_trainer import CROSS_ENTROPY, MEASURED_CURVES, FigureTrainer
from gtddp_lab.studies.figures.intervals import draw_mean_band, interval_text, mean_and_half_width
from gtddp_lab.studies.pictures import new_figure, save_figure
from gtddp_lab.studies.section import StudyOptions, StudySection
from gtddp_lab.training.plots import COLOURS

FIGURE7B = "figure7b"
# Rate and damping with the lowest training loss of EKFAC in a small grid.
EKFAC_RATE, EKFAC_DAMPING, EKFAC_BATCH = 1e-3, 0.03, 12
EKFAC_EPOCHS, IMAGE_LIMIT = 6, 2000
PLAIN_EKFAC = "EKFAC"
EKFAC_METHODS: dict[str, dict[str, Any]] = {
    PLAIN_EKFAC: {"equilibrium": "open_loop"},
    "GT-EKFAC": {"equilibrium": "open_loop", "cooperative": "rescale"},
    "GT-DDP-EKFAC": {"cooperative": "rescale"},
    "joint EKFAC": {"equilibrium": "open_loop", "cooperative": "joint"},
}
"""Options of `gt.ekfac` for the methods of Fig. 7b, and for EKFAC with the true joint block."""

MethodCourses: TypeAlias = dict[str, dict[str, np.ndarray]]
"""For each method, the courses [seeds, epochs] of `MEASURED_CURVES` by name."""


def train_all_methods(
    dataset: Dataset,
    seeds: int,
    epochs: int,
    *,
    limit: int | None = None,
    net: gt.Network | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> MethodCourses:
    """Train with all methods from the same initial parameters on the same batches.

    Args:
        dataset: the data set.
        seeds: number of seeds.
        epochs: epochs of each run.
        limit: largest number of training and of test images.
        net: the network; None for the paper's, `networks.cooperative_network`.
        say: prints one line of progress.
    """
    network = networks.cooperative_network(dataset.classes) if net is None else net
    courses: MethodCourses = {}
    for name, options in EKFAC_METHODS.items():

        def make_optimizer(batch_stats: Any, options: Any = options) -> Any:
            del batch_stats  # the network has no batch normalisation
            return gt.ekfac(
                network, CROSS_ENTROPY, EKFAC_RATE, damping=EKFAC_DAMPING, momentum=0.9, **options
            )

        trainer = FigureTrainer(network, make_optimizer, dataset, EKFAC_BATCH, limit)
        runs = [trainer.train(seed, epochs).curves for seed in range(seeds)]
        courses[name] = {curve: np.stack([run[curve] for run in runs]) for curve in MEASURED_CURVES}
        last = courses[name]["train_loss"][:, -1].mean()
        say(f"figure 7b: {dataset.name}, {name}: training loss {last:.4f}")
    return courses


def study_figure7b(options: StudyOptions) -> StudySection:
    """Compare training and test loss and accuracy of the methods, with confidence bands."""
    quick, absent = options.quick, []
    by_dataset: dict[str, MethodCourses] = {}
    seeds, epochs = (2, 1) if quick else (options.seeds, EKFAC_EPOCHS)
    for name in options.datasets:
        try:
            folder = None if options.data_dir is None else Path(options.data_dir)
            dataset = load_dataset(name, folder)
        except DataError as error:
            absent.append(f"{name} ({error})")
            options.say(f"figure 7b: {error}")
            continue
        net = _quick_network(dataset.classes) if quick else None
        limit = 48 if quick else IMAGE_LIMIT
        by_dataset[name] = train_all_methods(
            dataset, seeds, epochs, limit=limit, net=net, say=options.say
        )
    if not by_dataset:
        raise DataError(f"figure 7b: none of the data sets can be used: {'; '.join(absent)}.")
    files = _draw_methods(by_dataset, options)
    numbers = {
        name: {
            method: {curve: values.tolist() for curve, values in courses.items()}
            for method, courses in methods.items()
        }
        for name, methods in by_dataset.items()
    }
    data = {
        "rate": EKFAC_RATE,
        "damping": EKFAC_DAMPING,
        "batch": EKFAC_BATCH,
        "seeds": seeds,
        "epochs": epochs,
        "curves": _finite_tree(numbers),
    }
    title = "Figure 7b: EKFAC on cooperative blocks"
    return StudySection(FIGURE7B, title, _text(by_dataset, absent), data, files)


def _quick_network(classes: int) -> gt.Network:
    block = gt.Cooperative([nn.Dense(4), nn.Dense(4)])
    return gt.Network([networks.flatten, block, nn.tanh, nn.Dense(classes)])


def _finite_tree(tree: Any) -> Any:
    """Replace numbers that are not finite by None."""
    if isinstance(tree, dict):
        return {name: _finite_tree(branch) for name, branch in tree.items()}
    if isinstance(tree, list):
        return [_finite_tree(branch) for branch in tree]
    return tree if np.isfinite(tree) else None


def _draw_methods(by_dataset: dict[str, MethodCourses], options: StudyOptions) -> tuple[str, ...]:
    figure = new_figure(len(MEASURED_CURVES), len(by_dataset), 3.25)
    grid = figure.subplots(len(by_dataset), len(MEASURED_CURVES), squeeze=False)
    for (name, methods), panels in zip(by_dataset.items(), grid, strict=True):
        for curve, axes in zip(MEASURED_CURVES, panels, strict=True):
            # Losses are compared by their ratio, accuracies by their difference.
            is_loss = curve.endswith("loss")
            for colour, (method, courses) in zip(COLOURS, methods.items(), strict=False):
                values = courses[curve] if is_loss else 100 * courses[curve]
                epochs = np.arange(1, values.shape[1] + 1)
                draw_mean_band(axes, epochs, values, method, colour, is_loss)
            if is_loss:
                axes.set_yscale("log")
            axes.set(xlabel="epoch", title=f"{name}: {curve.replace('_', ' ')}")
            axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize="small")
    return save_figure(figure, options.out, FIGURE7B)


def _method_row(method: str, courses: dict[str, np.ndarray], base: dict[str, np.ndarray]) -> str:
    cells = []
    for curve in MEASURED_CURVES:
        scale, digits = (1, 4) if curve.endswith("loss") else (100, 1)
        mean, half_width = mean_and_half_width(scale * courses[curve][:, -1])
        cells.append(interval_text(float(mean), float(half_width), f".{digits}f"))
    ratio = ""
    if method != PLAIN_EKFAC:
        ratio = interval_text(*final_log_ratio(courses, base), "+.2f")
    return f"| {method} | {' | '.join(cells)} | {ratio} |"


def final_log_ratio(
    courses: dict[str, np.ndarray], base: dict[str, np.ndarray]
) -> tuple[float, float]:
    """Return mean and 95 % half-width of the paired log-ratio of the final training losses."""
    ratio = np.log(courses["train_loss"][:, -1] / base["train_loss"][:, -1])
    mean, half_width = mean_and_half_width(ratio)
    return float(mean), float(half_width)


def order_verdict(methods: MethodCourses) -> str:
    """Say in a sentence whether the training losses are in the paper's order.

    Args:
        methods: courses as returned by `train_all_methods`.
    """

    def compare(method: str, other: str) -> tuple[bool, str]:
        mean, half_width = final_log_ratio(methods[method], methods[other])
        if not np.isfinite(mean):
            broken = method if not np.isfinite(methods[method]["train_loss"]).all() else other
            return False, f"{broken} diverged for a seed"
        word = "within noise of" if abs(mean) <= half_width else "below" if mean < 0 else "above"
        figures = interval_text(mean, half_width, "+.2f")
        return mean < -half_width, f"{method} ends {word} {other} in training loss ({figures})"

    first, second = compare("GT-EKFAC", PLAIN_EKFAC), compare("GT-DDP-EKFAC", "GT-EKFAC")
    texts = [text for _, text in (first, second, compare("joint EKFAC", PLAIN_EKFAC))]
    if len(methods[PLAIN_EKFAC]["train_loss"]) < 2:
        return f"One seed shows no order: {'; '.join(texts)}."
    order = "is reproduced" if first[0] and second[0] else "is not reproduced"
    return f"The paper's order {order}: {'; '.join(texts)}."


def _text(by_dataset: dict[str, MethodCourses], absent: list[str]) -> str:
    seeds, epochs = next(iter(by_dataset.values()))[PLAIN_EKFAC]["train_loss"].shape
    lines = [
        "*The paper* (MNIST): GT-EKFAC, EKFAC with the rescaling of Corollary 7, converges better "
        "than EKFAC, and GT-DDP-EKFAC better still.",
        "",
        "*What is compared:* the network of Sec. 6 (three convolutional cooperative blocks, one "
        f"dense one, one dense layer, tanh), batch size {EKFAC_BATCH}, momentum 0.9, learning rate "
        f"{EKFAC_RATE:g} and damping {EKFAC_DAMPING:g}, where EKFAC has its lowest training loss "
        f"in a small grid; {seeds} seeds, {epochs} epochs, the same initial parameters and batches "
        f"for all; at most {IMAGE_LIMIT} training and test images. A fourth method, `joint`, is "
        "EKFAC with the true Gauss–Newton block of both players. ± is the half-width of the 95 % "
        "confidence interval; log-ratios are paired.",
    ]
    for name, methods in by_dataset.items():
        lines += [
            "",
            f"**{name}**",
            "",
            "| method | training loss | training accuracy, % | test loss | test accuracy, % | "
            "training loss, log-ratio to EKFAC |",
            "|---|---|---|---|---|---|",
            *(
                _method_row(method, courses, methods[PLAIN_EKFAC])
                for method, courses in methods.items()
            ),
            "",
            order_verdict(methods),
        ]
    if absent:
        lines += ["", f"Not shown: {'; '.join(absent)}."]
    lines += ["", f"![Loss and accuracy of EKFAC and its game-theoretic forms]({FIGURE7B}.png)"]
    return "\n".join(lines)
