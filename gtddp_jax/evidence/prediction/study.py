"""How κ and the correlation of a tail behave, and how much correlation the benefit needs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_jax.evidence.prediction.course import Moment, train
from gtddp_jax.evidence.prediction.degraded import Degraded
from gtddp_jax.evidence.prediction.influence import influences, player_sets
from gtddp_jax.evidence.section import Options, Section
from gtddp_jax.evidence.statistics import log_ratio
from gtddp_jax.training import networks
from gtddp_jax.training.data import load

BASES = {"SGD": optax.sgd(0.01, momentum=0.9), "Adam": optax.adam(1e-3)}
BOLD = {"SGD": optax.sgd(0.03, momentum=0.9), "Adam": optax.adam(3e-3)}
"""Rates where the implicit game helps most."""

EPOCHS, SEEDS, BATCHES = 6, 3, 8
"""Of the first part: epochs, seeds, and batches over which a figure is averaged."""

CORRELATIONS = (1.0, 0.9, 0.7, 0.5, 0.25, 0.0)


class Shape(NamedTuple):
    """A residual MLP and its batch; one number at a time differs from the first.

    Attributes:
        blocks: number of blocks of two layers.
        width: features of every layer but the last.
        norm: normalisation at the head of every block.
        batch: samples in a step.
    """

    blocks: int = 4
    width: int = 64
    norm: str = "none"
    batch: int = 32

    @property
    def network(self) -> gt.Network:
        """The network."""
        return networks.residual_mlp(10, self.width, self.blocks, self.norm)


SHAPES = (
    Shape(),
    Shape(blocks=2),
    Shape(blocks=16),
    Shape(width=16),
    Shape(width=256),
    Shape(batch=8),
    Shape(batch=128),
    Shape(norm="layer"),
    Shape(norm="batch"),
)


def study(options: Options) -> Section:
    """Trains residual MLPs on the digits and looks at what predicts for what."""
    data = load("digits", None)
    count = 160 if options.quick else None
    images, labels = data.train_images[:count], data.train_labels[:count]
    rows, benefit = [], []
    for name, base in BASES.items():
        for shape in SHAPES[-1:] if options.quick else SHAPES:
            rows.append({"base": name, **shape._asdict(), **_watched(shape, base, images, labels)})
            options.say(f"prediction: {name}, {shape}")
        if options.quick:
            break
    for name, base in BOLD.items():
        benefit += _benefit(name, base, (images, labels), options)
        options.say(f"prediction: {name}, degraded")
        if options.quick:
            break
    found = {"sets": rows, "degraded": benefit}
    return Section("prediction", "What predicts for the network", _text(rows, benefit), found)


def _watched(
    shape: Shape, base: optax.GradientTransformation, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Correlations and kappa at three moments of a training run with `tail`."""
    net = shape.network
    sets = player_sets(net)
    count = min(BATCHES, len(labels) // shape.batch)
    rows = np.random.default_rng(0).permutation(len(labels))[: count * shape.batch]
    batches = tuple(jnp.asarray(x[rows]).reshape(count, shape.batch, *x.shape[1:])
                    for x in (images, labels))  # fmt: skip

    @jax.jit
    def look(moment: Moment) -> dict[str, jax.Array]:
        def one(params: Any, state: Any) -> dict[str, jax.Array]:
            def batch(given: Any) -> dict[str, jax.Array]:
                return influences(net, base, sets, params, state, given)

            return jax.lax.map(batch, batches)

        return jax.vmap(one)(moment.params, moment.state)

    epochs = EPOCHS if count == BATCHES else 2
    whole: list[np.ndarray] = []
    found: dict[str, Any] = {name: [] for name in (*sets, "epoch before")}
    kappas: dict[str, Any] = {name: [] for name in sets}
    for moment in train(net, base, gt.weights.tail(), (images, labels), shape.batch, epochs, SEEDS):
        n = {name: np.asarray(v, np.float64) for name, v in look(moment._replace(loss=0)).items()}
        whole.append(n["all"])
        for name in sets:
            found[name].append(_correlation(n[name], n["all"]))
            kappas[name].append(_slope(n["all"], n[name]))
        if len(whole) > 1:
            found["epoch before"].append(_correlation(whole[-2], whole[-1]))
    moments = {"start": 0, "one epoch": 1, "end": -1}
    return {
        "correlation": {
            name: {when: courses[place] for when, place in moments.items()}
            if name in sets
            else {"one epoch": courses[0], "end": courses[-1]}
            for name, courses in found.items()
        },
        "kappa": {
            name: {when: courses[place] for when, place in moments.items()}
            for name, courses in kappas.items()
        },
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Mean over seeds and batches of the correlation over samples; arrays [seeds, batches, B].

    None if a run was not finite.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return float(((a * b).sum(-1) / np.where(size > 0, size, np.inf)).mean())


def _slope(y: np.ndarray, x: np.ndarray) -> float | None:
    """Median over seeds and batches of the regression of y on x through the origin, or None."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    square = (x * x).sum(-1)
    return float(np.median((x * y).sum(-1) / np.where(square > 0, square, np.inf)))


def _benefit(
    name: str,
    base: optax.GradientTransformation,
    data: tuple[np.ndarray, np.ndarray],
    options: Options,
) -> list[dict[str, Any]]:
    """Run-average and last epoch's loss against the base for every correlation."""
    shape, epochs = Shape(), 2 if options.quick else 12
    seeds = 3 if options.quick else 2 * options.seeds

    def course(weights: Any) -> np.ndarray:
        moments = list(train(shape.network, base, weights, data, shape.batch, epochs, seeds))
        return np.stack([moment.loss for moment in moments[1:]], axis=1)

    alone, rows = course(None), []
    for c in CORRELATIONS[:1] if options.quick else CORRELATIONS:
        ours = course(Degraded(c))
        rows.append(
            {
                "base": name,
                "correlation": c,
                "average": log_ratio(ours.mean(1), alone.mean(1)).data,
                "last": log_ratio(ours[:, -1], alone[:, -1]).data,
            }
        )
    return rows


def _text(rows: list[dict[str, Any]], benefit: list[dict[str, Any]]) -> str:
    names = list(rows[0]["correlation"])
    heads = [f"{name}, κ" for name in rows[0]["kappa"]]
    columns = ["base", "blocks", "width", "norm", "batch", *names, *heads]
    lines = [
        "Correlation over the samples of a batch between n of a part of the players and n of all, "
        "along runs with `tail` on the digits: at the start / after one epoch / at the end "
        f"({EPOCHS} epochs); means over {SEEDS} seeds and {BATCHES} batches. *Spread*: the head "
        "and one layer in every second block. *Epoch before*: n of the same samples one epoch "
        "earlier, after one epoch / at the end. κ: median regression of n on the part's.",
        "",
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
    ]
    for row in rows:
        cells = [str(row[name]) for name in ("base", "blocks", "width", "norm", "batch")]
        cells += [_course(row["correlation"][name], 2) for name in names]
        cells += [_course(kappa, 1) for kappa in row["kappa"].values()]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "How much correlation the benefit needs: `product` with its n mixed with other samples' "
        "(and scaled as κ would), against the base at a bold rate; the residual MLP of the first "
        "row, 12 epochs. Log-ratios with 95 % bootstrap intervals:",
        "",
        "| base | correlation | run average | last epoch |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['base']} | {row['correlation']:g} | {_ratio(row['average'])} | "
        f"{_ratio(row['last'])} |"
        for row in benefit
    ]
    return "\n".join(lines)


def _course(figures: dict[str, float | None], digits: int) -> str:
    shown = ("not finite" if x is None else f"{x:.{digits}f}" for x in figures.values())
    return " / ".join(shown)


def _ratio(estimate: list[float | None]) -> str:
    if None in estimate:
        return "diverged"
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*estimate)
