"""Fig. 4: the value Hessian of a whole batch, with and without batch normalisation."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab import networks
from gtddp_lab.data import Dataset, load_dataset
from gtddp_lab.studies.figures.figure_trainer import CROSS_ENTROPY, FigureTrainer
from gtddp_lab.studies.figures.value_hessian import MIDDLE_UPDATES, ValueHessian, value_hessians
from gtddp_lab.studies.pictures import new_figure, save_figure
from gtddp_lab.studies.section import StudyOptions, StudySection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE4, HESSIAN_BATCH = "figure4", 4
HESSIAN_RATES = (0.0, 1e-3, 1e-2, 1e-1)
SHOWN_RATE, CLEAR_SHARE = 1e-1, 0.9
NORM_TITLES = {"none": "without BatchNorm", "batch": "with BatchNorm"}

HessianFunction = Callable[[Any, Any, float], dict[str, list[ValueHessian]]]
"""Maps parameters, batch statistics and rate to V_x'x' by stage, for all `MIDDLE_UPDATES`."""


def batch_hessians(net: gt.Network, dataset: Dataset) -> HessianFunction:
    """Return a function for V_x'x' on the first training images, in float64, in training mode."""

    @jax.jit
    def all_hessians(
        params: Any, batch_stats: Any, inputs: jax.Array, labels: jax.Array, rate: Any
    ) -> dict[str, list[ValueHessian]]:
        stages = net.bind(batch_stats, train=True)
        return {
            name: value_hessians(
                stages,
                params,
                inputs,
                lambda outputs: CROSS_ENTROPY(outputs, labels),
                rate,
                curvature=name,
            )
            for name in MIDDLE_UPDATES
        }

    def hessians(params: Any, batch_stats: Any, rate: float) -> dict[str, list[ValueHessian]]:
        with jax.enable_x64(True):
            variables = jax.tree.map(
                lambda array: jnp.asarray(array, jnp.float64), (params, batch_stats)
            )
            inputs = jnp.asarray(dataset.train_images[:HESSIAN_BATCH], jnp.float64)
            labels = jnp.asarray(dataset.train_labels[:HESSIAN_BATCH])
            return all_hessians(*variables, inputs, labels, rate)

    return hessians


def diagonal_shares(hessians: Sequence[ValueHessian]) -> list[float]:
    """Return the share of the diagonal blocks before each later stage and at the outputs."""
    with jax.enable_x64(True):
        return [float(hessian.diagonal_share()) for hessian in hessians[1:]]


def largest_coupling(hessians: Sequence[ValueHessian]) -> float:
    """Return the largest mean coupling of pairs of samples over the same stages."""
    with jax.enable_x64(True):
        return max(float(hessian.sample_coupling()) for hessian in hessians[1:-1])


def study_figure4(options: StudyOptions) -> StudySection:
    """Measure the share of the diagonal blocks by stage, and draw V_x'x'."""
    dataset, quick = load_dataset("digits"), options.quick
    width, epochs = (2, 1) if quick else (8, 10)
    shown: dict[str, list[ValueHessian]] = {}
    tables: dict[str, dict[str, Any]] = {}
    for norm, text in NORM_TITLES.items():
        net = _quick_network(norm) if quick else networks.residual_conv(10, width=width, norm=norm)
        trainer = FigureTrainer(
            net,
            lambda stats, net=net: gt.adam(
                net, CROSS_ENTROPY, 1e-3, equilibrium="open_loop", batch_stats=stats
            ),
            dataset,
            batch_size=8,
            limit=64 if quick else None,
        )
        after = trainer.train(0, epochs)
        hessians_of, rows = batch_hessians(net, dataset), []
        moments = {"at initialisation": trainer.start(0), f"after {epochs} epochs": after}
        for label, trained in moments.items():
            for rate in HESSIAN_RATES[-2:] if quick else HESSIAN_RATES:
                hessians = hessians_of(trained.params, trained.batch_stats, rate)
                # The self-response is computed only at the rate that the picture shows.
                for curvature in MIDDLE_UPDATES if rate == SHOWN_RATE else ("base",):
                    row = {"when": label, "rate": rate, "curvature": curvature}
                    row |= {"shares": diagonal_shares(hessians[curvature])}
                    rows.append(row | {"coupling": largest_coupling(hessians[curvature])})
                if rate == SHOWN_RATE:
                    shown[f"{text}, {label}"] = hessians["base"]
        tables[text] = {
            "stages": [" + ".join(stage.players) for stage in net.stages[1:]],
            "test_accuracy": float(after.curves["test_accuracy"][-1]),
            "rows": rows,
        }
        options.say(f"figure 4: {text}")
    files = _draw_hessians(shown, options)
    title = "Figure 4: the value Hessian of a batch"
    numbers = {"batch": HESSIAN_BATCH, "width": width, "networks": tables}
    return StudySection(FIGURE4, title, _text(tables, width), numbers, files)


def _quick_network(norm: str) -> gt.Network:
    style = networks.BlockStyle(norm)
    block = style.block_layers(2, convolutions=1, inputs=2)
    return gt.Network([*style.stem_layers(2, 2), *block, networks.flatten, nn.Dense(10)])


def _draw_hessians(shown: dict[str, list[ValueHessian]], options: StudyOptions) -> tuple[str, ...]:
    figure = new_figure(len(shown), 2, 3.1, 3.2)
    panels = figure.subplots(2, len(shown), squeeze=False)
    for (label, hessians), column in zip(shown.items(), panels.T, strict=True):
        for stage, axes in zip((1, len(hessians) - 2), column, strict=True):
            _draw_magnitudes(axes, hessians[stage])
            with jax.enable_x64(True):
                share = float(hessians[stage].diagonal_share())
            name = "last stage" if stage > 1 else "second stage"
            axes.set_title(f"{label},\n{name}: {100 * share:.2f} %", fontsize="small")
    return save_figure(figure, options.out, FIGURE4)


def _draw_magnitudes(axes: "Axes", hessian: ValueHessian, pixels: int = 256) -> None:
    """Draw |V_x'x'| as in the paper: root mean squares of patches, logarithmic, large is white."""
    with jax.enable_x64(True):
        matrix = np.abs(np.asarray(hessian.dense_matrix()))
    # Patches keep the picture small while their means keep its structure.
    patch = max(1, len(matrix) // pixels)
    count = len(matrix) // patch
    patches = matrix[: count * patch, : count * patch].reshape(count, patch, count, patch)
    magnitudes = np.sqrt(np.square(patches).mean((1, 3)))
    top = magnitudes.max()
    # Five decades below the maximum are visible; the rest is black.
    shown = np.log10(np.maximum(magnitudes, 1e-5 * top) / top) if top > 0 else magnitudes
    axes.imshow(shown, cmap="gray", vmin=-5, vmax=0, interpolation="nearest")
    step = count / HESSIAN_BATCH
    for edge in range(1, HESSIAN_BATCH):
        axes.axhline(edge * step - 0.5, color="#56B4E9", lw=0.4)
        axes.axvline(edge * step - 0.5, color="#56B4E9", lw=0.4)
    axes.set(xticks=[], yticks=[])


def _text(tables: dict[str, dict[str, Any]], width: int) -> str:
    accuracies = ", ".join(
        f"{100 * table['test_accuracy']:.1f} % {text}" for text, table in tables.items()
    )
    lines = [
        f"*The paper:* for a batch of {HESSIAN_BATCH} on DIGITS, V_x'x' \"contains only nontrivial "
        'values along the diagonal blocks, even when networks contain Batch Normalization"; the '
        "paper keeps only these blocks.",
        "",
        f"*What is measured:* the paper's network for DIGITS with {width} channels on the first "
        f"{HESSIAN_BATCH} training images, with the exact Hessians of the losses and the "
        "batch-augmented recursion without approximation, in float64; BatchNorm uses batch "
        "statistics. Q_uu = (1/rate) I; *self-response*: with f_u' V f_u added; rate 0: no "
        "feedback, so that only BatchNorm couples the samples. Trained with Adam at 0.001, batch "
        f"size 8 (test accuracy {accuracies}). Numbers are the share of the squared Frobenius "
        "norm in the diagonal blocks, in %; a matrix without structure has "
        f"{100 / HESSIAN_BATCH:.0f}. A sample with a large loss can dominate that norm; "
        "*coupling* is independent of such sizes: the mean over pairs of samples of |V_ij| / "
        "√(|V_ii| |V_jj|), in the stage where it is largest.",
    ]
    for text, table in tables.items():
        heads = [f"before {name}" for name in table["stages"]]
        lines += ["", f"**{text}**", "", f"| when | rate | {' | '.join(heads)} | coupling |"]
        lines.append("|---" * (len(heads) + 3) + "|")
        for row in table["rows"]:
            cells = " | ".join(f"{100 * share:.2f}" for share in row["shares"][:-1])
            response = ", self-response" if row["curvature"] == "self_response" else ""
            lines.append(
                f"| {row['when']} | {row['rate']:g}{response} | {cells} | {row['coupling']:.3f} |"
            )
    lines += ["", *(_finding(text, table["rows"]) for text, table in tables.items())]
    lines += ["", _verdict(tables)]
    lines += ["", f"![The value Hessian of a batch, by network and stage]({FIGURE4}.png)", ""]
    lines.append(
        f"Magnitudes of V_x'x' at rate {SHOWN_RATE:g}, five decades from black to "
        "white. Lines separate the samples; the heading shows the share of the diagonal blocks."
    )
    return "\n".join(lines)


def _finding(text: str, rows: list[dict[str, Any]]) -> str:
    parts = []
    for name, chosen in {
        "without feedback": [row for row in rows if row["rate"] == 0],
        f"at rates up to {HESSIAN_RATES[-2]:g}": [
            row for row in rows if 0 < row["rate"] < SHOWN_RATE
        ],
        f"at rate {SHOWN_RATE:g}": [
            row for row in rows if row["rate"] == SHOWN_RATE and row["curvature"] == "base"
        ],
        f"at rate {SHOWN_RATE:g} with the self-response": [
            row for row in rows if row["curvature"] == "self_response"
        ],
    }.items():
        if chosen:
            low = min(min(row["shares"]) for row in chosen)
            parts.append(f"{name} {100 * low:.1f} %")
    return f"- {text}, lowest share over all stages and times: {'; '.join(parts)}."


def _verdict(tables: dict[str, dict[str, Any]]) -> str:
    every = [(text, row) for text, table in tables.items() for row in table["rows"]]
    weak = [(text, row) for text, row in every if min(row["shares"]) < CLEAR_SHARE]
    exceptions_text = "; ".join(
        f"{text}, {row['when']}, rate {row['rate']:g}"
        + (" (self-response)" if row["curvature"] == "self_response" else "")
        for text, row in weak
    )
    exceptions = f" Exceptions: {exceptions_text}." if weak else ""
    return (
        f"In {len(every) - len(weak)} of {len(every)} rows every stage has at least "
        f"{100 * CLEAR_SHARE:.0f} % in the diagonal blocks, as the paper states.{exceptions} "
        "Without BatchNorm and feedback, the matrix is block-diagonal by construction. BatchNorm "
        "couples samples. So does feedback, because all samples share the parameters of the "
        "layers; this coupling grows with rate × curvature of the losses. Whether the blocks "
        "dominate therefore depends on the learning rate and the training time as well as on the "
        "network."
    )
