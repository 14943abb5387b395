"""Fig. 6c: what the feedback of convolutional layers responds to, as images.

For the paper's rank-one terminal model every feedback gain is an outer product (DESIGN §3):

    K_i = -P Q_ux,i = -(1/B) c_{t+1,i} P G_{t,i} g_{t,i}^T

so that its only right singular vector with a singular value above zero is the adjoint `g_{t,i}` of
the states before the layer, trunk and pending shortcuts, whatever P and c are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt
from gtddp_jax.evidence.figures.deconvolution import project
from gtddp_jax.evidence.figures.intervals import mean_and_half
from gtddp_jax.evidence.figures.training import LOSS, Trained, Trainer
from gtddp_jax.evidence.figures.value_hessian import value_hessians
from gtddp_jax.evidence.pictures import canvas, save
from gtddp_jax.evidence.section import Options, Section
from gtddp_jax.game import adjoints
from gtddp_jax.network.program import Stage
from gtddp_jax.training import networks
from gtddp_jax.training.data import DataError, Dataset, load

NAME, RATE = "figure6c", 1e-3


class Plan(NamedTuple):
    """How one data set is treated.

    Attributes:
        pairs: labels of the images that are shown, with the class that each resembles.
        stride: of the first convolution.
        batch: samples in a step.
        epochs: of training.
        limit: training and test images at most.
    """

    pairs: tuple[tuple[int, int], ...]
    stride: int
    batch: int
    epochs: int
    limit: int | None = None


PLANS = {
    "digits": Plan(((8, 3), (3, 8), (7, 1), (1, 7)), 1, 8, 10),
    "mnist": Plan(((8, 3), (3, 8), (7, 1), (1, 7)), 2, 128, 2, 12_800),
    "fashion_mnist": Plan(((6, 0), (0, 6), (7, 9), (9, 7)), 2, 128, 2, 12_800),
}
"""Data sets of small grey images by name."""

JUDGED = 200
"""Test images over which the figures are averaged."""


def convolutions(stages: Sequence[Stage]) -> dict[str, int]:
    """The convolutions whose states can change, with their stages: all but the first stage's."""
    return {
        act.name: t
        for t, stage in enumerate(stages)
        for act in stage.acts
        if t > 0 and isinstance(act.module, nn.Conv)
    }


def leading_directions(
    stages: Sequence[Stage], params: Any, x: jax.Array, y: jax.Array
) -> list[tuple[jax.Array, ...]]:
    """The leading right singular vector of K_i of each stage and sample, under the rank-one model.

    Args:
        stages: from `Network.bind`.
        params: `{player: tree}`.
        x: inputs [B, ...].
        y: labels [B].

    Returns:
        For each stage one array [B, ...] for each live state before it; their norm over a sample
        is 1, and their sign that which increases the loss. The network input counts as fixed: it
        is zero.
    """
    trajectory = adjoints.forward(tuple(stages), params, x)
    gradient = jax.grad(lambda o: LOSS(o, y).sum())(trajectory.outputs)
    found = []
    back = adjoints.backward(tuple(stages), trajectory, gradient)
    for stage, states in zip(stages, back.states, strict=True):
        filled = [
            jnp.zeros_like(trajectory.values[v]) if g is None else g
            for v, g in zip(stage.inputs, states, strict=True)
        ]
        square = sum(jnp.square(g.reshape(len(x), -1)).sum(1) for g in filled)
        norm = jnp.where(square > 0, jnp.sqrt(square), 1.0)
        found.append(tuple(g / norm.reshape(-1, *[1] * (g.ndim - 1)) for g in filled))
    return found


def projections(
    stages: Sequence[Stage], params: Any, x: jax.Array, y: jax.Array
) -> dict[str, jax.Array]:
    """The leading directions of the convolutions in image space, {layer: like x}."""
    directions = leading_directions(stages, params, x, y)
    return {
        name: project(stages[:t], params, x, directions[t])
        for name, t in convolutions(stages).items()
    }


def against_exact(
    stages: Sequence[Stage], params: Any, x: jax.Array, y: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The rank-one directions against those of the exact terminal Hessian (block-diagonal V_xx).

    Returns:
        For each convolution the absolute cosine between the two [B], and the share of the leading
        singular value in the sum of squares of all, [B].
    """
    directions = leading_directions(stages, params, x, y)

    def one(sample: tuple[jax.Array, jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
        x, y = sample
        found = value_hessians(
            stages, params, x[None], lambda o: LOSS(o, y[None]), RATE, samples=len(directions[0][0])
        )
        return [found[t].leading_right() for t in convolutions(stages).values()]

    # Not vmap: convolutions with a filter gradient for each sample are many times slower on CPUs.
    exact = jax.lax.map(one, (x, y))
    out = {}
    for (name, t), (vector, share) in zip(convolutions(stages).items(), exact, strict=True):
        flat = jnp.concatenate([d.reshape(len(x), -1) for d in directions[t]], axis=1)
        out[name] = jnp.abs((flat * vector[:, 0]).sum(1)), share
    return out


def resemblance(images: np.ndarray, x: np.ndarray, y: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlation of images with differences of class means.

    Args:
        images: projections [N, ...].
        x: images whose class means are taken [M, ...]; `y` their labels [M].
        y: see `x`.
        other: pairs (own class, other class) [N, 2].

    Returns:
        The correlation over pixels of each image with mean(other class) - mean(own class), [N].
    """
    means = {int(c): x[y == c].mean(0) for c in np.unique(y)}
    differences = np.stack([means[int(b)] - means[int(a)] for a, b in other])
    a, b = (v.reshape(len(v), -1) for v in (images, differences))
    a, b = (v - v.mean(1, keepdims=True) for v in (a, b))
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.where(scale > 0, scale, 1.0)


def study(options: Options) -> Section:
    """The pictures of Fig. 6c, and how much they look like differences of similar classes."""
    shown, numbers, absent = [], {}, []
    for name in options.datasets:
        if name not in PLANS:
            absent.append(f"{name} (not planned here; there are {', '.join(PLANS)})")
            continue
        folder = None if options.data_dir is None else Path(options.data_dir)
        try:
            data = load(name, folder)
        except DataError as error:
            absent.append(f"{name} ({error})")
            options.say(f"figure 6c: {error}")
            continue
        found, grid = _examine(data, PLANS[name], options)
        numbers[name] = found
        shown += grid
    if not numbers:
        raise DataError(f"figure 6c: none of the data sets can be used: {'; '.join(absent)}.")
    files = _draw(shown, options)
    title = "Figure 6c: what the feedback of convolutions responds to"
    return Section(NAME, title, _text(numbers, absent), {"datasets": numbers}, files)


def _examine(data: Dataset, plan: Plan, options: Options) -> tuple[dict[str, Any], list[Any]]:
    """The figures of one data set, and its rows of the picture: (title, {column: image})."""
    small = options.quick
    net = networks.residual_conv(data.classes, width=2 if small else 16, stride=plan.stride)
    trainer = Trainer(
        net,
        lambda stats: gt.adam(net, LOSS, RATE),
        data,
        plan.batch,
        64 if small else plan.limit,
    )
    trained = trainer.run(0, 1 if small else plan.epochs)
    options.say(f"figure 6c: trained on {data.name}")
    with jax.enable_x64(True):
        found, grid = _measure(net, trained, data, plan, 20 if small else JUDGED)
    found["test_accuracy"] = float(trained.curves["test_accuracy"][-1])
    options.say(f"figure 6c: {data.name} done")
    return found, grid


def _measure(
    net: gt.Network, trained: Trained, data: Dataset, plan: Plan, judged: int
) -> tuple[dict[str, Any], list[Any]]:
    stages = net.stages
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), trained.params)
    images = jnp.asarray(data.validation_images, jnp.float64)
    labels = data.validation_labels
    outputs = np.asarray(jax.jit(net.apply)(params, images[:2000]))
    chosen = [_most_alike(outputs, labels[:2000], a, b) for a, b in plan.pairs]
    index = np.array([*chosen, *range(judged)])
    x, y = images[index], labels[index]
    maps = jax.jit(lambda p, x, y: projections(stages, p, x, y))(params, x, y)
    exact = jax.jit(lambda p, x, y: against_exact(stages, p, x, y))(
        params, x[len(chosen) :], y[len(chosen) :]
    )
    hidden = outputs[index[len(chosen) :]].copy()
    own = y[len(chosen) :]
    hidden[np.arange(judged), own] = -np.inf
    second = hidden.argmax(1)
    layers: dict[str, Any] = {}
    for name, found in maps.items():
        rows = np.asarray(found)[len(chosen) :]

        def like(other: np.ndarray, rows: np.ndarray = rows) -> np.ndarray:
            pairs = np.stack([own, other], 1)
            return resemblance(rows, data.train_images, data.train_labels, pairs)

        near = like(second)
        far = [like((second + k) % data.classes) for k in range(1, data.classes)]
        mask = [((second + k) % data.classes) != own for k in range(1, data.classes)]
        rest = np.nanmean(np.where(mask, far, np.nan), axis=0)
        mean, half = mean_and_half(near - rest)
        cosine, share = (float(np.mean(part)) for part in exact[name])
        layers[name] = {
            "runner_up": float(near.mean()),
            "others": float(rest.mean()),
            "difference": float(mean),
            "difference_half_width": float(half),
            "cosine_to_exact": cosine,
            "leading_share_exact": share,
        }
    grid = [
        (
            f"{a} like {b}",
            {"input": np.asarray(x[i])} | {name: np.asarray(m[i]) for name, m in maps.items()},
        )
        for i, (a, b) in enumerate(plan.pairs)
    ]
    return {"images": judged, "layers": layers}, grid


def _most_alike(outputs: np.ndarray, labels: np.ndarray, own: int, other: int) -> int:
    """The test image of one class where another class leads most over all the rest."""
    rest = np.delete(outputs, [own, other], axis=1).max(1)
    lead = np.where(labels == own, outputs[:, other] - rest, -np.inf)
    return int(lead.argmax())


def _draw(shown: list[tuple[str, dict[str, np.ndarray]]], options: Options) -> tuple[str, ...]:
    columns = list(shown[0][1])
    figure = canvas(len(columns), len(shown), 1.5, 1.45)
    grid = figure.subplots(len(shown), len(columns), squeeze=False)
    for column, axes in zip(columns, grid[0], strict=True):
        axes.set_title(column, fontsize="small")
    for (label, images), row in zip(shown, grid, strict=True):
        for column, axes in zip(columns, row, strict=True):
            image = images[column].mean(-1)
            if column == "input":
                axes.imshow(image, cmap="gray")
                axes.set_ylabel(label, fontsize="small")
            else:
                top = np.abs(image).max() or 1.0
                axes.imshow(image, cmap="RdBu_r", vmin=-top, vmax=top)
            axes.set(xticks=[], yticks=[])
    return save(figure, options.out, NAME)


def _text(numbers: dict[str, Any], absent: list[str]) -> str:
    lines = [
        "*The paper:* leading eigenvectors of the feedback matrices of convolutions, projected to "
        'image space, "capture non-trivial visual feature related to the pixel-wise difference '
        'between spatially similar classes, e.g. (8, 3) or (7, 1)".',
        "",
        "*What is shown:* with the paper's rank-one terminal model each K_i = -P Q_ux,i is an "
        "outer product, -(1/B) c P G_i g_i'. Its leading right singular vector *is* the adjoint "
        "g_i of the states before the layer (trunk and shortcut), the backpropagated gradient, "
        "whatever the curvature; nothing else is in it. We take it in the direction that raises "
        "the loss and project it by transposed convolutions with a ReLU on the signal (Zeiler and "
        "Fergus). The first convolution has no feedback: its input never changes. Trained with "
        f"GT-DDP-Adam at {RATE:g}.",
        "",
        "*What is measured* on test images: the correlation over pixels of the projection with "
        "mean image of the runner-up class minus mean image of the own class; the same with the "
        "other classes in place of the runner-up; their difference ± 95 %. For comparison with the "
        "exact terminal Hessian (rank 9 for 10 classes): the mean absolute cosine of its leading "
        "direction with the adjoint, and the share of its leading singular value.",
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
        clear = [r["difference"] > r["difference_half_width"] for r in rows]
        verdict = (
            "the projections look more like the difference to the runner-up than to other classes "
            "in every layer: the paper's finding is repeated"
            if all(clear)
            else f"they do so beyond the confidence interval in {sum(clear)} of {len(clear)} layers"
        )
        lines.append(
            f"- {name} ({100 * found['test_accuracy']:.1f} % test accuracy, {found['images']} "
            f"images): {verdict}."
        )
    if absent:
        lines += ["", f"Not shown: {'; '.join(absent)}."]
    lines += ["", f"![Inputs and projected feedback directions of the convolutions]({NAME}.png)"]
    return "\n".join(lines)
