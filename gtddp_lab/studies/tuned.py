"""Tuned against tuned: every method at its own best rate, after equal epochs and equal time.

Each method trains at every rate of one grid; its rate is chosen by the final training loss on
tuning seeds, and reported are other seeds. At equal time every method gets the time in which
`tuned_grid.BUDGET` finishes its epochs, with a schedule of that length, rounded up to whole epochs.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gtddp_lab.core.printing import loss_text
from gtddp_lab.studies.cell_runner import CellResult, CellRunner
from gtddp_lab.studies.cells import Cell, default_cell
from gtddp_lab.studies.comparison import epochs_at_equal_time
from gtddp_lab.studies.markdown import markdown_table
from gtddp_lab.studies.paper.setting import QUICK_SETTING, cell_runner, seed_count
from gtddp_lab.studies.pictures import (
    draw_intervals,
    draw_training_curve,
    new_figure,
    save_figure,
)
from gtddp_lab.studies.section import StudyOptions, StudySection
from gtddp_lab.studies.statistics import Estimate, finite_or_none, mean_log_ratio
from gtddp_lab.studies.time_to_target import (
    LARGEST_RATIO,
    Courses,
    Problem,
    SuiteRow,
    draw_profiles,
    score_suite,
    suite_table,
)
from gtddp_lab.studies.tuned_grid import (
    BUDGET,
    GAMES,
    QUICK_BUDGET,
    QUICK_METHODS,
    QUICK_TARGET,
    TARGET,
    TUNED_METHODS,
    TUNED_PROBLEMS,
    TUNING_SEEDS,
)
from gtddp_lab.training.methods import OPTIMIZERS
from gtddp_lab.training.plots import COLOURS


class TunedMethod(NamedTuple):
    """A method at its best rate.

    Attributes:
        cell: Its cell, with the best rate.
        tuning: Mean final training loss on the tuning seeds, by rate.
        cost: Time of a step as a multiple of the first method's.
        equal_epochs: Its results on the reported seeds.
        equal_time: Its results there, with as much time as `BUDGET` takes.
    """

    cell: Cell
    tuning: Mapping[float, float]
    cost: float
    equal_epochs: CellResult
    equal_time: CellResult

    @property
    def is_game(self) -> bool:
        """Whether the layers act together."""
        return self.key in GAMES

    @property
    def key(self) -> tuple[str, str]:
        """Base and variant."""
        return self.cell.base, self.cell.variant

    @property
    def courses(self) -> Courses:
        """The training losses at equal time, on the reported seeds."""
        return Courses(self.equal_time.figures["train_loss"][TUNING_SEEDS:], self.cost)

    @property
    def label(self) -> str:
        """The name with the best rate."""
        return f"{self.cell.label} {self.cell.rate:g}"


def study_tuned(options: StudyOptions) -> StudySection:
    """Train baselines and the implicit game, each at its own best rate."""
    sections, data, pictures = [], {}, []
    suite: dict[str, Problem] = {}
    target = QUICK_TARGET if options.quick else TARGET
    for problem, changes in _problems(options).items():
        methods = tune_methods(options, changes)
        suite[problem] = suite_problem(methods, target)
        ratios = _log_ratios(methods)
        name = f"tuned_{problem}"
        pictures += draw_intervals(
            [(method.label, pair) for method, pair in zip(methods, ratios, strict=True)],
            {"equal epochs: final loss, log-ratio": -1, "equal time: final loss, log-ratio": -1},
            options.out,
            name,
        )
        pictures += _draw_courses(methods, options, f"{name}_time")
        sections.append(_problem_text(problem, methods, ratios, options, name))
        data[problem] = list(map(_method_data, methods, ratios))
    rows: dict[str, SuiteRow] = {}
    if suite:  # there are data sets without a problem
        rows = score_suite(suite, target)
        pictures += draw_profiles(rows, options.out, "tuned_profile")
        sections.insert(0, _suite_text(rows, target))
    return StudySection(
        "tuned",
        "Tuned against tuned",
        "\n\n".join(sections),
        {"problems": data, "suite": _suite_data(rows)},
        tuple(pictures),
    )


def _problems(options: StudyOptions) -> dict[str, dict[str, Any]]:
    """The problems on the data sets of the study."""
    if options.quick:
        return {name: {"dataset": name, **QUICK_SETTING} for name in options.datasets}
    return {
        name: changes
        for name, changes in TUNED_PROBLEMS.items()
        if changes["dataset"] in options.datasets
    }


def tune_methods(options: StudyOptions, changes: Mapping[str, Any]) -> list[TunedMethod]:
    """Choose every method's rate and train it there.

    Args:
        options: The options of the study.
        changes: Fields of `Cell`, the data set included.
    """
    runner = cell_runner(options)
    grids = QUICK_METHODS if options.quick else TUNED_METHODS
    best: list[tuple[Cell, dict[float, float]]] = []
    for (base, variant), rates in grids.items():
        cell = default_cell(base=base, **changes)
        cell = dataclasses.replace(cell, variant=variant, schedule=_schedule(base))
        tuning = _tuning_losses(runner, cell, rates)
        best.append((dataclasses.replace(cell, rate=min(tuning, key=tuning.__getitem__)), tuning))
    costs = runner.step_costs([cell for cell, _ in best])
    key = QUICK_BUDGET if options.quick else BUDGET
    (budget,) = (cost for cell, cost in costs.items() if (cell.base, cell.variant) == key)
    seeds = TUNING_SEEDS + seed_count(options, changes["dataset"])
    longer = {
        cell: dataclasses.replace(
            cell, epochs=epochs_at_equal_time(cell.epochs, budget / costs[cell])
        )
        for cell, _ in best
    }
    results = runner.run_cells([*longer, *longer.values()], seeds)
    return [
        TunedMethod(cell, tuning, costs[cell], results[cell], results[longer[cell]])
        for cell, tuning in best
    ]


def _schedule(base: str) -> str:
    # An average takes the place of a schedule.
    return "cosine" if OPTIMIZERS[base].average is None else "constant"


def _tuning_losses(runner: CellRunner, cell: Cell, rates: Sequence[float]) -> dict[float, float]:
    cells = {rate: dataclasses.replace(cell, rate=rate) for rate in rates}
    results = runner.run_cells(cells.values(), TUNING_SEEDS)
    losses = {rate: results[each].final_figure("train_loss").mean() for rate, each in cells.items()}
    return {rate: float(loss) if np.isfinite(loss) else math.inf for rate, loss in losses.items()}


def _reported(result: CellResult, name: str) -> np.ndarray:
    """A final figure on the seeds that were not used for tuning."""
    return result.final_figure(name)[TUNING_SEEDS:]


def _log_ratios(methods: Sequence[TunedMethod]) -> list[tuple[Estimate, Estimate]]:
    """Final training loss against the best baseline: at equal epochs and at equal time."""
    equal_epochs = _against_best(methods, [method.equal_epochs for method in methods])
    equal_time = _against_best(methods, [method.equal_time for method in methods])
    return list(zip(equal_epochs, equal_time, strict=True))


def _against_best(methods: Sequence[TunedMethod], results: Sequence[CellResult]) -> list[Estimate]:
    """Log-ratios of the results to those of the baseline with the lowest mean loss."""
    losses = [_reported(result, "train_loss") for result in results]
    baselines = [loss for method, loss in zip(methods, losses, strict=True) if not method.is_game]
    best = min(baselines, key=np.mean)
    return [mean_log_ratio(loss, best) for loss in losses]


def _draw_courses(
    methods: Sequence[TunedMethod], options: StudyOptions, name: str
) -> tuple[str, ...]:
    """Draw training loss against time: each implicit game, and its base as a dashed line."""
    figure = new_figure(1, width=6.0, height=4.0)
    axes = figure.subplots()
    by_key = {method.key: method for method in methods}
    pairs = [
        (by_key[base, "implicit"], by_key[base, "base"])
        for base, variant in by_key
        if variant == "implicit"
    ]
    for colour, pair in zip(COLOURS, pairs, strict=False):
        for method, style in zip(pair, ("-", "--"), strict=True):
            losses, epoch_time = method.courses
            draw_training_curve(axes, losses, method.label, colour, epoch_time, style)
    axes.set(xlabel="time, in epochs of SGD", ylabel="training loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return save_figure(figure, options.out, name)


def suite_problem(methods: Sequence[TunedMethod], target: str) -> Problem:
    """Return what all methods did in equal time on the reported seeds.

    Args:
        methods: The methods on one problem.
        target: The label of the method whose loss after equal epochs is the target.
    """
    by_label = {method.cell.label: method for method in methods}
    courses = {label: method.courses for label, method in by_label.items()}
    return Problem(courses, _reported(by_label[target].equal_epochs, "train_loss"))


def _suite_text(rows: Mapping[str, SuiteRow], target: str) -> str:
    return "\n\n".join(
        [
            "### All problems",
            f"Time to the training loss of {target} after equal epochs, in the runs of equal time, "
            "as a multiple of its own: geometric mean with a 95 % interval. The score is the mean "
            f"share of problems that a method solves within 1 to {LARGEST_RATIO:g} times "
            "the shortest time.",
            "![Share of problems against time](tuned_profile.png)",
            suite_table(rows),
        ]
    )


def _suite_data(rows: Mapping[str, SuiteRow]) -> dict[str, Any]:
    return {
        name: {
            "ratios": {problem: finite_or_none(ratio) for problem, ratio in row.ratios.items()},
            "mean": row.mean.json_data,
            "score": row.score,
        }
        for name, row in rows.items()
    }


NEAR_BEST = 1.25
"""A rate is near the best if its loss is at most this multiple of the loss at the best rate."""


def near_best_rates(tuning: Mapping[float, float]) -> tuple[float, float]:
    """The smallest and the largest rate that are near a method's best one."""
    limit = NEAR_BEST * min(tuning.values())
    near = [rate for rate, loss in tuning.items() if loss <= limit]
    return min(near), max(near)


def _problem_text(
    problem: str,
    methods: Sequence[TunedMethod],
    ratios: Sequence[tuple[Estimate, Estimate]],
    options: StudyOptions,
    picture: str,
) -> str:
    cell = methods[0].cell
    images = "all training images" if cell.subset is None else f"{cell.subset} training images"
    headings = (
        "method",
        "best rate",
        "step cost",
        "final training loss",
        "validation %",
        "equal epochs",
        "equal time",
        "rates near the best",
    )
    rows = []
    for method, (epochs, time) in zip(methods, ratios, strict=True):
        smallest, largest = near_best_rates(method.tuning)
        row = (
            method.cell.label,
            f"{method.cell.rate:g}",
            f"{method.cost:.2f}",
            loss_text(_reported(method.equal_epochs, "train_loss").mean()),
            f"{100 * _reported(method.equal_epochs, 'validation_accuracy').mean():.2f}",
            epochs.text(),
            time.text(),
            f"{smallest:g}" if smallest == largest else f"{smallest:g} to {largest:g}",
        )
        rows.append(row)
    return "\n\n".join(
        [
            f"### {problem}",
            f"{cell.dataset}, `{cell.network}`, batch {cell.batch_size}, {cell.epochs} epochs, "
            f"{images}, cosine schedule; rates chosen on {TUNING_SEEDS} seeds, "
            f"{seed_count(options, cell.dataset)} other seeds reported. Log-ratios of the final "
            "training loss to that of the best baseline, "
            f"with 95 % intervals. Rates near the best reach at most {NEAR_BEST} times the loss "
            "there.",
            f"![Log-ratios with intervals]({picture}.png)",
            f"![Training loss against time]({picture}_time.png)",
            markdown_table(headings, rows),
        ]
    )


def _method_data(method: TunedMethod, ratios: tuple[Estimate, Estimate]) -> dict[str, Any]:
    """All numbers of a method, ready for JSON."""
    epochs, time = ratios
    return {
        "cell": dataclasses.asdict(method.cell),
        "tuning": {f"{rate:g}": finite_or_none(loss) for rate, loss in method.tuning.items()},
        "cost": method.cost,
        "equal_time_epochs": method.equal_time.cell.epochs,
        "train_loss": [*map(finite_or_none, _reported(method.equal_epochs, "train_loss"))],
        "validation_accuracy": [
            *map(finite_or_none, _reported(method.equal_epochs, "validation_accuracy"))
        ],
        "equal_time_train_loss": [*map(finite_or_none, _reported(method.equal_time, "train_loss"))],
        "log_ratio_equal_epochs": epochs.json_data,
        "log_ratio_equal_time": time.json_data,
    }
