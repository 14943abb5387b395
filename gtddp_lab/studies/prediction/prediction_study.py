"""How kappa and the correlation of a tail behave, and how much correlation the benefit needs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_lab import networks
from gtddp_lab.data import load_dataset
from gtddp_lab.studies.prediction.course import TrainingSnapshot, train_implicit
from gtddp_lab.studies.prediction.degraded import DegradedProduct
from gtddp_lab.studies.prediction.influence import player_set_influences, player_sets
from gtddp_lab.studies.section import StudyOptions, StudySection
from gtddp_lab.studies.statistics import mean_log_ratio

PREDICTION_BASES = {"SGD": optax.sgd(0.01, momentum=0.9), "Adam": optax.adam(1e-3)}
BOLD_BASES = {"SGD": optax.sgd(0.03, momentum=0.9), "Adam": optax.adam(3e-3)}
"""Bases with the learning rates at which the implicit game helps most."""

WATCHED_EPOCHS, WATCHED_SEEDS, WATCHED_BATCHES = 6, 3, 8
"""Epochs, seeds, and batches over which a figure is averaged, in the first part of the study."""

CORRELATIONS = (1.0, 0.9, 0.7, 0.5, 0.25, 0.0)

MOMENTS = {"start": 0, "one epoch": 1, "end": -1}
"""Positions in a run's snapshots at which figures are reported."""


class MlpShape(NamedTuple):
    """A residual MLP and its batch size; each shape differs from the first one in one number.

    Attributes:
        blocks: number of blocks of two layers.
        width: features of every layer but the last.
        norm: normalisation at the beginning of every block.
        batch: samples per step.
    """

    blocks: int = 4
    width: int = 64
    norm: str = "none"
    batch: int = 32

    @property
    def network(self) -> gt.Network:
        """The network."""
        return networks.residual_mlp(10, self.width, self.blocks, self.norm)


MLP_SHAPES = (
    MlpShape(),
    MlpShape(blocks=2),
    MlpShape(blocks=16),
    MlpShape(width=16),
    MlpShape(width=256),
    MlpShape(batch=8),
    MlpShape(batch=128),
    MlpShape(norm="layer"),
    MlpShape(norm="batch"),
)


def study_prediction(options: StudyOptions) -> StudySection:
    """Train residual MLPs on the digits and measure which players predict the whole network."""
    dataset = load_dataset("digits", None)
    count = 160 if options.quick else None
    images, labels = dataset.train_images[:count], dataset.train_labels[:count]
    bases = list(PREDICTION_BASES.items())[: 1 if options.quick else None]
    shapes = MLP_SHAPES[-1:] if options.quick else MLP_SHAPES
    rows = []
    for name, base in bases:
        for shape in shapes:
            figures = _watch_training(shape, base, images, labels)
            rows.append({"base": name, **shape._asdict(), **figures})
            options.say(f"prediction: {name}, {shape}")
    benefit = []
    for name, base in list(BOLD_BASES.items())[: 1 if options.quick else None]:
        benefit += _degraded_benefit(name, base, (images, labels), options)
        options.say(f"prediction: {name}, degraded")
    title = "Which players predict the whole network"
    numbers = {"sets": rows, "degraded": benefit}
    return StudySection("prediction", title, _text(rows, benefit), numbers)


def _watch_training(
    shape: MlpShape, base: optax.GradientTransformation, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Correlations and kappa at three moments of a training run with `tail`."""
    net = shape.network
    sets = player_sets(net)
    count = min(WATCHED_BATCHES, len(labels) // shape.batch)
    rows = np.random.default_rng(0).permutation(len(labels))[: count * shape.batch]
    batches = tuple(
        jnp.asarray(array[rows]).reshape(count, shape.batch, *array.shape[1:])
        for array in (images, labels)
    )

    @jax.jit
    def influences_of(snapshot: TrainingSnapshot) -> dict[str, jax.Array]:
        def of_one_seed(params: Any, state: Any) -> dict[str, jax.Array]:
            def of_batch(batch: Any) -> dict[str, jax.Array]:
                return player_set_influences(net, base, sets, params, state, batch)

            return jax.lax.map(of_batch, batches)

        return jax.vmap(of_one_seed)(snapshot.params, snapshot.state)

    # The quick version has too few batches, and trains for less time.
    epochs = WATCHED_EPOCHS if count == WATCHED_BATCHES else 2
    whole: list[np.ndarray] = []
    correlations: dict[str, list[float | None]] = {name: [] for name in sets}
    kappas: dict[str, list[float | None]] = {name: [] for name in sets}
    epoch_before: list[float | None] = []
    for snapshot in train_implicit(
        net, base, gt.weighting.Tail(), (images, labels), shape.batch, epochs, WATCHED_SEEDS
    ):
        influences = influences_of(snapshot._replace(loss=np.zeros(())))
        n = {name: np.asarray(values, np.float64) for name, values in influences.items()}
        whole.append(n["all"])
        for name in sets:
            correlations[name].append(_correlation(n[name], n["all"]))
            kappas[name].append(_regression_slope(n["all"], n[name]))
        if len(whole) > 1:
            epoch_before.append(_correlation(whole[-2], whole[-1]))
    return {
        "correlation": {
            **{name: _at_moments(course) for name, course in correlations.items()},
            "epoch before": {"one epoch": epoch_before[0], "end": epoch_before[-1]},
        },
        "kappa": {name: _at_moments(course) for name, course in kappas.items()},
    }


def _at_moments(course: list[float | None]) -> dict[str, float | None]:
    return {moment: course[position] for moment, position in MOMENTS.items()}


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Mean over seeds and batches of the correlation over samples; arrays [seeds, batches, B].

    None if a run was not finite.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    a, b = (array - array.mean(-1, keepdims=True) for array in (a, b))
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return float(((a * b).sum(-1) / np.where(size > 0, size, np.inf)).mean())


def _regression_slope(y: np.ndarray, x: np.ndarray) -> float | None:
    """Median over seeds and batches of the slope of y on x through the origin.

    None if a run was not finite.
    """
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    # A set without influence gives slope 0 instead of NaN.
    square = (x * x).sum(-1)
    return float(np.median((x * y).sum(-1) / np.where(square > 0, square, np.inf)))


def _degraded_benefit(
    name: str,
    base: optax.GradientTransformation,
    data: tuple[np.ndarray, np.ndarray],
    options: StudyOptions,
) -> list[dict[str, Any]]:
    """Loss of the run and of its last epoch against the base, for every correlation."""
    shape, epochs = MlpShape(), 2 if options.quick else 12
    seeds = 3 if options.quick else 2 * options.seeds

    def losses(weighting: gt.weighting.SampleWeighting | None) -> np.ndarray:
        snapshots = list(
            train_implicit(shape.network, base, weighting, data, shape.batch, epochs, seeds)
        )
        return np.stack([snapshot.loss for snapshot in snapshots[1:]], axis=1)

    base_losses, rows = losses(None), []
    for correlation in CORRELATIONS[:1] if options.quick else CORRELATIONS:
        degraded = losses(DegradedProduct(correlation))
        average = mean_log_ratio(degraded.mean(1), base_losses.mean(1))
        last = mean_log_ratio(degraded[:, -1], base_losses[:, -1])
        rows.append(
            {
                "base": name,
                "correlation": correlation,
                "average": average.json_data,
                "last": last.json_data,
            }
        )
    return rows


def _text(rows: list[dict[str, Any]], benefit: list[dict[str, Any]]) -> str:
    names = list(rows[0]["correlation"])
    kappa_headings = [f"{name}, κ" for name in rows[0]["kappa"]]
    columns = ["base", "blocks", "width", "norm", "batch", *names, *kappa_headings]
    lines = [
        "Correlation over the samples of a batch between the influence n of some players and that "
        "of all players, along runs with `tail` on the digits: at the start / after one epoch / at "
        f"the end ({WATCHED_EPOCHS} epochs); means over {WATCHED_SEEDS} seeds and "
        f"{WATCHED_BATCHES} batches. *Spread*: the head and one layer in every second block. "
        "*Epoch before*: n of the same samples one epoch earlier, after one epoch / at the end. "
        "κ: median slope of the regression of the whole n on that of the players.",
        "",
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
    ]
    for row in rows:
        cells = [str(row[name]) for name in ("base", "blocks", "width", "norm", "batch")]
        cells += [_course_text(row["correlation"][name], 2) for name in names]
        cells += [_course_text(kappa, 1) for kappa in row["kappa"].values()]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "How much correlation the benefit needs: `product` with its n mixed with that of other "
        "samples (and scaled as κ would scale it), against the base at a large learning rate; the "
        "residual MLP of the first row, 12 epochs. Log-ratios with 95 % bootstrap intervals:",
        "",
        "| base | correlation | run average | last epoch |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['base']} | {row['correlation']:g} | {_ratio_text(row['average'])} | "
        f"{_ratio_text(row['last'])} |"
        for row in benefit
    ]
    return "\n".join(lines)


def _course_text(figures: dict[str, float | None], digits: int) -> str:
    shown = ("not finite" if value is None else f"{value:.{digits}f}" for value in figures.values())
    return " / ".join(shown)


def _ratio_text(estimate: list[float | None]) -> str:
    if None in estimate:
        return "diverged"
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*estimate)
