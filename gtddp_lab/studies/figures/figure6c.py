"""Fig. 6c: what the feedback of convolutional layers responds to, as images.

For the paper's rank-one terminal model, every feedback gain is an outer product
(docs/mathematics.md, "The collapse"):

    K_i = -P Q_ux,i = -(1/B) c_{t+1,i} P G_{t,i} g_{t,i}^T

Its only right singular vector with a nonzero singular value is therefore the adjoint `g_{t,i}` of
the states before the layer (trunk and pending shortcuts), for any P and c.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_lab import networks
from gtddp_lab.data import DataError, Dataset, load_dataset
from gtddp_lab.studies.figures.deconvolution import project_to_image
from gtddp_lab.studies.figures.figure_trainer import CROSS_ENTROPY, FigureTrainer, TrainedNetwork
from gtddp_lab.studies.figures.intervals import mean_and_half_width
from gtddp_lab.studies.figures.value_hessian import value_hessians
from gtddp_lab.studies.pictures import new_figure, save_figure
from gtddp_lab.studies.section import StudyOptions, StudySection

FIGURE6C, FEEDBACK_RATE = "figure6c", 1e-3


class DatasetPlan(NamedTuple):
    """Settings for one data set.

    Attributes:
        pairs: (label, other label) of the shown images: images that resemble the other class.
        stride: stride of the first convolution.
        batch_size: samples per step.
        epochs: epochs of training.
        limit: largest number of training and of test images.
    """

    pairs: tuple[tuple[int, int], ...]
    stride: int
    batch_size: int
    epochs: int
    limit: int | None = None


DATASET_PLANS = {
    "digits": DatasetPlan(((8, 3), (3, 8), (7, 1), (1, 7)), 1, 8, 10),
    "mnist": DatasetPlan(((8, 3), (3, 8), (7, 1), (1, 7)), 2, 128, 2, 12_800),
    "fashion_mnist": DatasetPlan(((6, 0), (0, 6), (7, 9), (9, 7)), 2, 128, 2, 12_800),
}
"""Data sets of small grey images, by name."""

JUDGED_IMAGES = 200
"""Number of test images over which the figures are averaged."""


def convolution_stages(stages: Sequence[gt.Stage]) -> dict[str, int]:
    """Return the convolutions after the first stage, whose states can change, with their stages."""
    return {
        player_op.name: number
        for number, stage in enumerate(stages)
        for player_op in stage.player_ops
        if number > 0 and isinstance(player_op.module, nn.Conv)
    }


def leading_directions(
    stages: Sequence[gt.Stage], params: Any, inputs: jax.Array, labels: jax.Array
) -> list[tuple[jax.Array, ...]]:
    """Return the leading right singular vector of K_i by stage and sample, in the rank-one model.

    Args:
        stages: the stages of `Network.bind`.
        params: `{player: tree}`.
        inputs: inputs [B, ...].
        labels: labels [B].

    Returns:
        For each stage, one array [B, ...] for each live state before it, of norm 1 per sample and
        with the sign that increases the loss. It is zero for the network input, which is fixed.
    """
    # The input of the network does not depend on parameters, so it never changes.
    network_input = stages[0].inputs[0]
    states: tuple[jax.Array, ...] = (inputs,)
    pullbacks = []
    for stage in stages:

        def run_stage(
            states: tuple[jax.Array, ...], stage: gt.Stage = stage
        ) -> tuple[jax.Array, ...]:
            return stage(params, states)

        states, pullback = jax.vjp(run_stage, states)
        pullbacks.append(pullback)
    adjoints = (jax.grad(lambda outputs: CROSS_ENTROPY(outputs, labels).sum())(states[0]),)
    directions: list[tuple[jax.Array, ...]] = []
    for stage, pullback in zip(reversed(stages), reversed(pullbacks), strict=True):
        (adjoints,) = pullback(adjoints)
        adjoints = tuple(
            jnp.zeros_like(adjoint) if value == network_input else adjoint
            for value, adjoint in zip(stage.inputs, adjoints, strict=True)
        )
        directions.insert(0, _normalise_per_sample(adjoints))
    return directions


def _normalise_per_sample(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Scale arrays [B, ...] to a joint norm of 1 per sample; a zero vector stays zero."""
    square = sum(jnp.square(array.reshape(len(array), -1)).sum(1) for array in arrays)
    norm = jnp.where(square > 0, jnp.sqrt(square), 1.0)
    return tuple(array / norm.reshape(-1, *[1] * (array.ndim - 1)) for array in arrays)


def project_convolutions(
    stages: Sequence[gt.Stage], params: Any, inputs: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """Return the leading directions of the convolutions in image space: {layer: like inputs}."""
    directions = leading_directions(stages, params, inputs, labels)
    return {
        name: project_to_image(stages[:number], params, inputs, directions[number])
        for name, number in convolution_stages(stages).items()
    }


def compare_with_exact(
    stages: Sequence[gt.Stage], params: Any, inputs: jax.Array, labels: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Compare with the exact terminal Hessian (block-diagonal V_xx).

    Returns:
        For each convolution, the absolute cosine between the rank-one and the exact leading
        direction [B], and the share of the exact leading singular value in the sum of squares [B].
    """
    directions = leading_directions(stages, params, inputs, labels)
    convolutions = convolution_stages(stages)

    def exact_directions(
        sample: tuple[jax.Array, jax.Array],
    ) -> list[tuple[jax.Array, jax.Array]]:
        image, label = sample
        hessians = value_hessians(
            stages,
            params,
            image[None],
            lambda outputs: CROSS_ENTROPY(outputs, label[None]),
            FEEDBACK_RATE,
            samples=len(inputs),
        )
        return [hessians[number].leading_singular_vector() for number in convolutions.values()]

    # Not vmap: convolutions with one filter gradient per sample are many times slower on CPUs.
    exact = jax.lax.map(exact_directions, (inputs, labels))
    compared = {}
    for (name, number), (vector, share) in zip(convolutions.items(), exact, strict=True):
        # Trunk and shortcuts side by side, as in the exact direction.
        flat = jnp.concatenate(
            [array.reshape(len(inputs), -1) for array in directions[number]], axis=1
        )
        compared[name] = jnp.abs((flat * vector[:, 0]).sum(1)), share
    return compared


def class_resemblance(
    projected: np.ndarray, images: np.ndarray, labels: np.ndarray, class_pairs: np.ndarray
) -> np.ndarray:
    """Correlate projections with differences of class means.

    Args:
        projected: projections [N, ...].
        images: images [M, ...] from which class means are computed.
        labels: their labels [M].
        class_pairs: pairs (true class, other class) [N, 2].

    Returns:
        The correlation over pixels of each projection with mean(other class) - mean(true class),
        [N].
    """
    means = {int(label): images[labels == label].mean(0) for label in np.unique(labels)}
    differences = np.stack([means[int(other)] - means[int(true)] for true, other in class_pairs])
    flat = (array.reshape(len(array), -1) for array in (projected, differences))
    a, b = (array - array.mean(1, keepdims=True) for array in flat)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.where(scale > 0, scale, 1.0)


def study_figure6c(options: StudyOptions) -> StudySection:
    """Draw the projections of Fig. 6c, and measure how much they resemble class differences."""
    rows, numbers, absent = [], {}, []
    for name in options.datasets:
        if name not in DATASET_PLANS:
            supported = ", ".join(DATASET_PLANS)
            absent.append(f"{name} (not supported by this study; supported: {supported})")
            continue
        folder = None if options.data_dir is None else Path(options.data_dir)
        try:
            dataset = load_dataset(name, folder)
        except DataError as error:
            absent.append(f"{name} ({error})")
            options.say(f"figure 6c: {error}")
            continue
        numbers[name], dataset_rows = _examine_dataset(dataset, DATASET_PLANS[name], options)
        rows += dataset_rows
    if not numbers:
        raise DataError(f"figure 6c: none of the data sets can be used: {'; '.join(absent)}.")
    files = _draw_projections(rows, options)
    title = "Figure 6c: what the feedback of convolutions responds to"
    text = _text(numbers, absent)
    return StudySection(FIGURE6C, title, text, {"datasets": numbers}, files)


PictureRow: TypeAlias = tuple[str, dict[str, np.ndarray]]
"""A row of the picture: its title, and the image of each column."""


def _examine_dataset(
    dataset: Dataset, plan: DatasetPlan, options: StudyOptions
) -> tuple[dict[str, Any], list[PictureRow]]:
    """The figures of one data set, and its rows of the picture."""
    quick = options.quick
    net = networks.residual_conv(dataset.classes, width=2 if quick else 16, stride=plan.stride)
    trainer = FigureTrainer(
        net,
        lambda stats: gt.adam(net, CROSS_ENTROPY, FEEDBACK_RATE),
        dataset,
        plan.batch_size,
        64 if quick else plan.limit,
    )
    trained = trainer.train(0, 1 if quick else plan.epochs)
    options.say(f"figure 6c: trained on {dataset.name}")
    judged = 20 if quick else JUDGED_IMAGES
    with jax.enable_x64(True):
        layers, rows = _measure_projections(net, trained, dataset, plan, judged)
    accuracy = float(trained.curves["test_accuracy"][-1])
    options.say(f"figure 6c: {dataset.name} done")
    return {"images": judged, "layers": layers, "test_accuracy": accuracy}, rows


def _measure_projections(
    net: gt.Network, trained: TrainedNetwork, dataset: Dataset, plan: DatasetPlan, judged: int
) -> tuple[dict[str, Any], list[PictureRow]]:
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), trained.params)
    images = jnp.asarray(dataset.validation_images, jnp.float64)
    outputs = np.asarray(jax.jit(net.apply)(params, images[:2000]))
    labels = dataset.validation_labels
    chosen = [_most_alike(outputs, labels[:2000], true, other) for true, other in plan.pairs]
    index = np.array([*chosen, *range(judged)])
    inputs, targets = images[index], labels[index]
    projections = jax.jit(functools.partial(project_convolutions, net.stages))(
        params, inputs, targets
    )
    first = len(chosen)  # the shown images come first, then the judged ones
    compared = jax.jit(functools.partial(compare_with_exact, net.stages))(
        params, inputs[first:], targets[first:]
    )
    layers = {
        name: {
            **_judge_layer(np.asarray(projected)[first:], outputs[index[first:]],
                           targets[first:], dataset),
            "cosine_to_exact": float(np.mean(compared[name][0])),
            "leading_share_exact": float(np.mean(compared[name][1])),
        }
        for name, projected in projections.items()
    }  # fmt: skip
    rows = [
        (
            f"{true} like {other}",
            {"input": np.asarray(inputs[row])}
            | {name: np.asarray(projected[row]) for name, projected in projections.items()},
        )
        for row, (true, other) in enumerate(plan.pairs)
    ]
    return layers, rows


def _judge_layer(
    projected: np.ndarray, outputs: np.ndarray, true: np.ndarray, dataset: Dataset
) -> dict[str, float]:
    """How much projections resemble the difference to the runner-up class and to other classes."""
    rivals = outputs.copy()
    # The runner-up is the best class besides the true one.
    rivals[np.arange(len(true)), true] = -np.inf
    runner_up = rivals.argmax(1)

    def resemblance(other: np.ndarray) -> np.ndarray:
        pairs = np.stack([true, other], 1)
        return class_resemblance(projected, dataset.train_images, dataset.train_labels, pairs)

    near = resemblance(runner_up)
    others = [(runner_up + shift) % dataset.classes for shift in range(1, dataset.classes)]
    far = [resemblance(other) for other in others]
    is_other = [other != true for other in others]  # the true class has no difference to itself
    rest = np.nanmean(np.where(is_other, far, np.nan), axis=0)
    mean, half_width = mean_and_half_width(near - rest)
    return {
        "runner_up": float(near.mean()),
        "others": float(rest.mean()),
        "difference": float(mean),
        "difference_half_width": float(half_width),
    }


def _most_alike(outputs: np.ndarray, labels: np.ndarray, true: int, other: int) -> int:
    """The test image of class ``true`` in which class ``other`` leads most over all the rest."""
    rest = np.delete(outputs, [true, other], axis=1).max(1)
    lead = np.where(labels == true, outputs[:, other] - rest, -np.inf)
    return int(lead.argmax())


def _draw_projections(rows: list[PictureRow], options: StudyOptions) -> tuple[str, ...]:
    columns = list(rows[0][1])
    figure = new_figure(len(columns), len(rows), 1.5, 1.45)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for column, axes in zip(columns, grid[0], strict=True):
        axes.set_title(column, fontsize="small")
    for (label, images), panels in zip(rows, grid, strict=True):
        for column, axes in zip(columns, panels, strict=True):
            image = images[column].mean(-1)
            if column == "input":
                axes.imshow(image, cmap="gray")
                axes.set_ylabel(label, fontsize="small")
            else:
                # A symmetric scale, so that zero is white.
                top = np.abs(image).max() or 1.0
                axes.imshow(image, cmap="RdBu_r", vmin=-top, vmax=top)
            axes.set(xticks=[], yticks=[])
    return save_figure(figure, options.out, FIGURE6C)


def _text(numbers: dict[str, Any], absent: list[str]) -> str:
    lines = [
        "*The paper:* leading eigenvectors of the feedback matrices of convolutions, projected to "
        'image space, "capture non-trivial visual feature related to the pixel-wise difference '
        'between spatially similar classes, e.g. (8, 3) or (7, 1)".',
        "",
        "*What is shown:* in the paper's rank-one terminal model, each K_i = -P Q_ux,i is an "
        "outer product, -(1/B) c P G_i g_i'. Its only right singular vector is the adjoint g_i of "
        "the states before the layer (trunk and shortcut), that is the backpropagated gradient, "
        "for any curvature. It is projected in the direction that increases the loss, by "
        "transposed convolutions with a ReLU on the signal (Zeiler and Fergus). The first "
        "convolution has no feedback, because its input never changes. Trained with GT-DDP-Adam at "
        f"learning rate {FEEDBACK_RATE:g}.",
        "",
        "*What is measured* on test images: the correlation over pixels of the projection with "
        "the mean image of the runner-up class minus that of the true class; the same with the "
        "other classes in place of the runner-up; their difference ± 95 % confidence interval. "
        "For the exact terminal Hessian (rank 9 for 10 classes): the mean absolute cosine of its "
        "leading direction with the adjoint, and the share of its leading singular value.",
        "",
        "| data | layer | runner-up | other classes | difference | cosine, exact | share, exact |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in numbers.items():
        for layer, row in found["layers"].items():
            lines.append(
                f"| {name} | {layer} | {row['runner_up']:+.2f} | {row['others']:+.2f} | "
                f"{row['difference']:+.2f} ± {row['difference_half_width']:.2f} | "
                f"{row['cosine_to_exact']:.3f} | {row['leading_share_exact']:.3f} |"
            )
    lines.append("")
    for name, found in numbers.items():
        rows = found["layers"].values()
        clear = [row["difference"] > row["difference_half_width"] for row in rows]
        verdict = (
            "in every layer, the projections resemble the difference to the runner-up more than "
            "that to other classes: this reproduces the paper's finding"
            if all(clear)
            else f"in {sum(clear)} of {len(clear)} layers, the projections resemble the difference "
            "to the runner-up more than that to other classes, beyond the confidence interval"
        )
        lines.append(
            f"- {name} ({100 * found['test_accuracy']:.1f} % test accuracy, {found['images']} "
            f"images): {verdict}."
        )
    if absent:
        lines += ["", f"Not shown: {'; '.join(absent)}."]
    lines += [
        "",
        f"![Inputs and projected feedback directions of the convolutions]({FIGURE6C}.png)",
    ]
    return "\n".join(lines)
