"""Per-step diagnostics, computed without a host synchronization and with fixed shapes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from gtddp_jax.core.counted_samples import CountedSamples
from gtddp_jax.core.one_line import concrete_numbers, short_text, unwrap_array
from gtddp_jax.core.trees import upcast
from gtddp_jax.core.types import Count, Flag, Number, Scalar, Tree

SampleWeightObserver: TypeAlias = Callable[[Float[Array, "stages B"]], None]
"""Called with the sample weights [stages, B] of a step while the step is traced."""


class LossAndAux(NamedTuple):
    """What a step tells its caller beside the update and the state; nothing of it is kept.

    Attributes:
        loss: the mean loss of the batch plus the regularizer.
        aux: what the model or the function of losses returned beside the outputs.
    """

    loss: Scalar
    aux: Tree | None


StepObserver: TypeAlias = Callable[[LossAndAux], None]
"""Called with the result of a step while the step is traced."""


class Report(NamedTuple):
    """Diagnostics of the last step. All are float32 scalars unless stated otherwise.

    Is it doing anything? The sample weights say so, which are all 1 for the base, and the feedback
    ratio. Is it helping? See the loss, and the predicted beside the actual change. Is something
    wrong? See the skipped steps, `double_counted` and `samples_coupled`. The printed line leads
    with these, and `scalars` gives all numbers to a logger.

    What a step costs no report can say, because a compiled step cannot read a clock: time it beside
    the base, which is the same call with `strength=0.0` or `equilibrium="open_loop"`, after a first
    step that compiles. `gtddp_jax.explain` shows what each layer of a sequential game costs.

    A sample's weight w at a stage multiplies its loss gradient there; with feedback off, all
    weights are 1. The running cost is what the user adds to the loss as a gradient, such as weight
    decay.

    Losses and their changes are means over all samples of all devices, of the numbers that the loss
    function returns: with `mask / mask.mean()` in the loss they are means over the samples in the
    mask. The figures of the weights are over the samples that have a gradient, so that padding
    changes nothing; without any such sample the weights are 1. See docs/masks.md.

    Attributes:
        loss: mean loss of the batch before the step, plus the regularizer of `gt.Losses`.
        sample_weight_min: smallest sample weight w over samples and stages.
        sample_weight_mean: mean of the sample weights.
        sample_weight_max: largest sample weight.
        sample_weight_std: standard deviation of the weights over samples, [stages].
        feedback_ratio: `|step - k| / |k|`, where k is the open gain, the step without feedback;
            [stages]. None in the implicit game, which has no open gain.
        predicted_change: the change of the mean loss that the terminal model predicts for the step;
            with feedback off, the step times its own gradient. In the implicit game the weighted
            mean `mean_i w_i s_i` of the predicted changes s of the losses, to first order; 0 where
            the base is played alone.
        actual_change: the change of this batch's mean loss if `actual_change_known`, else 0.
        actual_change_known: bool; whether the step evaluated the new outputs (nonlinear rollout).
        skipped: bool; the step was not finite, so parameters and curvature state did not change.
        skipped_steps: int32; the number of steps skipped so far.
        double_counted: bool; the running-cost gradient passed as `updates` equals the gradient
            of the loss, which is then counted twice.
        samples_coupled: bool; the losses of some samples depend on the outputs of others, so all
            sample weights are 1. False with feedback off, where nobody asks.
        placement_probabilities: the probabilities from which the placement of this step was drawn,
            [placements], in the order of `StagedNetwork.placed_networks`; None without
            `Residual(at="bandit")`.
    """

    loss: Scalar
    sample_weight_min: Scalar
    sample_weight_mean: Scalar
    sample_weight_max: Scalar
    sample_weight_std: Float[Array, " stages"]
    feedback_ratio: Float[Array, " stages"] | None
    predicted_change: Scalar
    actual_change: Scalar
    actual_change_known: Flag
    skipped: Flag
    skipped_steps: Count
    double_counted: Flag
    samples_coupled: Flag
    placement_probabilities: Float[Array, " placements"] | None = None

    def scalars(self) -> dict[str, Number]:
        """The report as a flat dictionary of scalars, for a logger.

        A field with one entry per stage gives one scalar per stage, `sample_weight_std/0` and so
        on; so does every field of reports that are stacked. A field that is None is left out.

        Returns:
            Python numbers, read from the device in one transfer; inside `jit` arrays of shape (),
            so that a compiled step can return them.

        Example:
            >>> import json
            >>> import gtddp_jax as gt, jax.numpy as jnp, optax
            >>> loss = lambda outputs, targets: optax.l2_loss(outputs, targets).sum(-1)
            >>> tx = gt.implicit(optax.sgd(0.1), lambda params, x: x @ params, loss)
            >>> scalars = tx.init(jnp.ones((3, 1))).report.scalars()
            >>> json.dumps(scalars)[:50]
            '{"loss": 0.0, "sample_weight_min": 1.0, "sample_we'
        """
        return report_scalars(self)

    def __repr__(self) -> str:
        return f"Report({report_line(self)})"


def report_scalars(report: Any) -> dict[str, Number]:
    """The fields of a report as scalars by name, with an index where a field has several."""
    fields: dict[str, Any] = {}
    for name, value in report._asdict().items():
        if isinstance(value, Mapping):
            fields |= {f"{name}/{key}": unwrap_array(part) for key, part in value.items()}
        elif value is not None:
            fields[name] = unwrap_array(value)
    traced = any(isinstance(value, Tracer) for value in fields.values())
    # A list, because JAX would sort the keys of a dictionary.
    values: list[Any] = list(fields.values())
    scalars: dict[str, Number] = {}
    for name, value in zip(fields, values if traced else jax.device_get(values), strict=True):
        for index in np.ndindex(value.shape):
            label = "/".join([name, *map(str, index)])
            scalars[label] = value[index] if traced else value[index].item()
    return scalars


def report_line(report: object) -> str:
    """A report in a few words.

    They are the loss, the weights as mean ± standard deviation and range, the feedback in percent
    of the step (both as means over stages), the change of the loss, the number of skipped steps,
    and the flags that are raised.

    Of reports stacked by `jax.lax.scan` the last one is described. A report without numbers, as
    under `jit`, is described by its loss.

    Args:
        report: a `Report`, or whatever stands in its place in a state.
    """
    if not isinstance(report, Report):
        return short_text(report)
    last = _last_numbers(report)
    if last is None:
        return f"loss {short_text(report.loss)}"
    parts = [f"loss {last['loss']:.4g}", f"weights {_weights_text(last)}"]
    if "feedback_ratio" in last:
        parts.append(f"feedback {100 * np.mean(last['feedback_ratio']):.2g} %")
    parts.append(f"predicted change {last['predicted_change']:.2g}")
    if last["actual_change_known"]:
        parts.append(f"actual {last['actual_change']:.2g}")
    if "placement_probabilities" in last:
        chances = " ".join(f"{chance:.2f}" for chance in last["placement_probabilities"])
        parts.append(f"placements {chances}")
    skipped = " with this one" if last["skipped"] else ""
    parts.append(f"skipped {last['skipped_steps']}{skipped}")
    parts += [flag for flag in ("double_counted", "samples_coupled") if last[flag]]
    return ", ".join(parts)


def _weights_text(last: dict[str, np.ndarray]) -> str:
    """The weights as mean ± standard deviation and range."""
    low, mean, high = (last[f"sample_weight_{name}"] for name in ("min", "mean", "max"))
    if low == high:
        return f"all {low:.4g}"
    deviation = np.mean(last["sample_weight_std"])
    return f"{mean:.4g} ± {deviation:.2g} in [{low:.4g}, {high:.4g}]"


OPTIONAL_FIELDS = ("feedback_ratio", "placement_probabilities")
"""Fields of a report that some games leave out."""


def _last_numbers(report: Report) -> dict[str, np.ndarray] | None:
    """The fields as numbers, the last along axes of `jax.lax.scan`; None without numbers."""
    numbers: dict[str, np.ndarray] = {}
    for name, value in report._asdict().items():
        field = concrete_numbers(value)
        if field is not None:
            numbers[name] = field
        elif value is not None or name not in OPTIONAL_FIELDS:
            return None
    stacked = numbers["loss"].shape
    if 0 in stacked or any(field.shape[: len(stacked)] != stacked for field in numbers.values()):
        return None
    return {name: field[(-1,) * len(stacked)] for name, field in numbers.items()}


MIN_COMPARED_SIZE = 8
"""Smallest array that `is_duplicate_gradient` compares, if there is a larger one."""
DUPLICATE_TOLERANCE = 1e-2
"""Relative difference below which a running-cost gradient is taken for the loss gradient."""


def tree_norm(tree: Tree) -> Scalar:
    """The Euclidean norm of a tree, in at least float32."""
    return optax.tree.norm(jax.tree.map(upcast, tree))


def is_duplicate_gradient(gradient: Tree, running_gradient: Tree) -> Flag:
    """Whether the running-cost gradient equals the gradient of the loss; a scalar boolean.

    Args:
        gradient: the gradient of the mean loss.
        running_gradient: the gradient of the running cost, a tree like `gradient`.
    """
    pairs = list(zip(jax.tree.leaves(gradient), jax.tree.leaves(running_gradient), strict=True))
    # One array decides, to save time: a small one, but not so small that it may agree by chance.
    candidates = [pair for pair in pairs if pair[0].size >= MIN_COMPARED_SIZE] or pairs
    loss_array, running_array = min(candidates, key=lambda pair: pair[0].size)
    difference = tree_norm(loss_array - running_array.astype(loss_array.dtype))
    norm = tree_norm(loss_array)
    # Two zero gradients are equal, but nothing is counted twice.
    return (difference <= DUPLICATE_TOLERANCE * norm) & (norm > 0)


def shared_report_fields(
    last_report: Report,
    counted: CountedSamples,
    loss: Scalar,
    sample_weights: Float[Array, "stages B"],
    *,
    predicted: Scalar,
    skipped: Flag,
    gradient: Tree,
    running_gradient: Tree,
    samples_coupled: Flag | bool,
) -> Report:
    """The report of a step, with the fields of one game only as they were in `last_report`.

    Args:
        last_report: the report of the previous step.
        counted: the samples that have a gradient.
        loss: see `Report.loss`.
        sample_weights: w, [stages, B].
        predicted: see `Report.predicted_change`.
        skipped: whether the step is skipped.
        gradient: the gradient of the mean loss by some of the parameters.
        running_gradient: the gradient of the running cost by the same parameters.
        samples_coupled: see `Report.samples_coupled`.
    """
    # Two passes, mean and then variance, because weights close to 1 would cancel in one.
    means = jax.vmap(counted.mean)(sample_weights)
    variances = jax.vmap(counted.mean)(jnp.square(sample_weights - means[:, None]))

    def one_without_gradients(weight: Scalar) -> Scalar:
        return jnp.where(counted.any, weight, 1.0)

    fields = {
        "loss": loss,
        "sample_weight_min": one_without_gradients(counted.min(sample_weights)),
        "sample_weight_mean": one_without_gradients(means.mean()),
        "sample_weight_max": one_without_gradients(counted.max(sample_weights)),
        "sample_weight_std": jnp.sqrt(variances),
        "predicted_change": predicted,
    }
    # Diagnostics are float32 whatever the dtype of the game, so that the state's dtypes are fixed.
    return last_report._replace(
        **{name: value.astype(jnp.float32) for name, value in fields.items()},
        skipped=skipped,
        skipped_steps=last_report.skipped_steps + skipped.astype(jnp.int32),
        double_counted=is_duplicate_gradient(gradient, running_gradient),
        samples_coupled=jnp.asarray(samples_coupled),
    )


def empty_report(stages: int, *, has_open_gain: bool) -> Report:
    """The report before the first step.

    Args:
        stages: the length of `Report.sample_weight_std`.
        has_open_gain: whether there is a `Report.feedback_ratio`, of the same length.
    """

    # Every field is an array of its own, because aliased buffers cannot be donated.
    def full(value: float, *shape: int) -> jax.Array:
        return jnp.full(shape, value, jnp.float32)

    return Report(
        loss=full(0.0),
        sample_weight_min=full(1.0),
        sample_weight_mean=full(1.0),
        sample_weight_max=full(1.0),
        sample_weight_std=full(0.0, stages),
        # Not an empty array: checkpoint libraries refuse arrays of size zero.
        feedback_ratio=full(0.0, stages) if has_open_gain else None,
        predicted_change=full(0.0),
        actual_change=full(0.0),
        actual_change_known=jnp.full((), False),
        skipped=jnp.full((), False),
        skipped_steps=jnp.zeros((), jnp.int32),
        double_counted=jnp.full((), False),
        samples_coupled=jnp.full((), False),
    )
