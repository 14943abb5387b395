"""Figures of one step of the joint game."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.core.one_line import concrete_numbers, short_text
from gtddp_jax.core.report import Report, report_scalars
from gtddp_jax.core.types import Count, Flag, Number, Scalar

METHOD_NAMES = ("Cholesky", "eigendecomposition", "conjugate gradients")
"""What the values of `JointReport.method` mean."""


class JointReport(NamedTuple):
    """Diagnostics of the last joint step. All are float32 scalars unless stated otherwise.

    Is it converging? See the loss and the losses of the terms. Is the damping right? See the gain
    ratio, which is near 1 where the linearized outputs predict what happens. Is the linear system
    well conditioned? See the condition, the rank, the method, and the residual.

    Attributes:
        loss: objective of the batch before the step, plus the regularizer of `gt.Losses`.
        term_losses: its parts by term, weights included.
        predicted_change: change of the objective that the linearized outputs predict for the step
            that was taken.
        actual_change: the change itself, on the same samples.
        gain_ratio: actual / predicted change, on the validation batch if one was given.
        damping: lambda.
        largest_eigenvalue: estimate for the undamped curvature.
        step_length: factor on the direction.
        step_norm: Euclidean norm of the step.
        acceleration_ratio: |a| / |d|, of the acceleration to the direction; 0 where none is asked
            for. Above the bound `joint(acceleration=...)` the step is straight.
        condition: estimate of the condition number of the scaled, damped system; NaN for conjugate
            gradients.
        linear_residual: norm of what the last linear system lacks, relative to its right-hand side.
        rank: int32; dimensions solved for. Less than the size of the system says that rounding
            cost it its definiteness, and an eigendecomposition with a cut-off was used.
        method: int32; 0 Cholesky, 1 eigendecomposition, 2 conjugate gradients.
        newton_steps: int32; 1 for squared losses.
        skipped: bool; the step was not finite, or samples were coupled: parameters, momentum
            and metric stayed as they were.
        skipped_steps: int32; number of skipped steps so far.
        samples_coupled: bool; the losses of some samples depend on other samples, so that the step
            is not defined and was skipped. Of terms, only `gt.supervised_term` can tell.
    """

    loss: Scalar
    term_losses: dict[str, Scalar]
    predicted_change: Scalar
    actual_change: Scalar
    gain_ratio: Scalar
    damping: Scalar
    largest_eigenvalue: Scalar
    step_length: Scalar
    step_norm: Scalar
    acceleration_ratio: Scalar
    condition: Scalar
    linear_residual: Scalar
    rank: Count
    method: Count
    newton_steps: Count
    skipped: Flag
    skipped_steps: Count
    samples_coupled: Flag

    def scalars(self) -> dict[str, Number]:
        """The report as a flat dictionary of scalars, for a logger.

        Losses of terms are named `term_losses/pde` and so on. Every field of reports that are
        stacked gives one scalar per report, `loss/0` and so on.

        Returns:
            Python numbers, read from the device in one transfer; inside `jit` arrays of shape (),
            so that a compiled step can return them.

        Example:
            >>> import gtddp_jax as gt, jax.numpy as jnp
            >>> tx = gt.joint({"fit": lambda w, x: w @ x - 1.0})
            >>> list(tx.init(jnp.ones(3)).report.scalars())[:3]
            ['loss', 'term_losses/fit', 'predicted_change']
        """
        return report_scalars(self)

    def __repr__(self) -> str:
        return f"JointReport({joint_report_line(self)})"


GameReport: TypeAlias = Report | JointReport
"""The report of any game."""


def is_game_report(node: object) -> bool:
    """Whether this is the report of a game."""
    return isinstance(node, (Report, JointReport))


def empty_joint_report(names: tuple[str, ...]) -> JointReport:
    """The report before the first step; every field is its own buffer and may be donated."""

    def number() -> jax.Array:
        return jnp.zeros((), jnp.float32)

    def integer() -> jax.Array:
        return jnp.zeros((), jnp.int32)

    return JointReport(
        loss=number(),
        term_losses={name: number() for name in names},
        predicted_change=number(),
        actual_change=number(),
        gain_ratio=number(),
        damping=number(),
        largest_eigenvalue=number(),
        step_length=number(),
        step_norm=number(),
        acceleration_ratio=number(),
        condition=number(),
        linear_residual=number(),
        rank=integer(),
        method=integer(),
        newton_steps=integer(),
        skipped=jnp.full((), False),
        skipped_steps=integer(),
        samples_coupled=jnp.full((), False),
    )


def joint_report_line(report: object) -> str:
    """A report in a few words; of reports stacked by `jax.lax.scan` the last one is described.

    Args:
        report: a `JointReport`, or whatever stands in its place in a state.
    """
    if not isinstance(report, JointReport):
        return short_text(report)
    last = _last_numbers(report)
    if last is None:
        return f"loss {short_text(report.loss)}"
    terms = ""
    if isinstance(report.term_losses, Mapping) and len(report.term_losses) > 1:
        values = (f"{name} {last[f'term_losses/{name}']:.3g}" for name in report.term_losses)
        terms = f" ({', '.join(values)})"
    skipped = " with this one" if last["skipped"] else ""
    parts = [
        f"loss {last['loss']:.4g}{terms}",
        f"predicted change {last['predicted_change']:.2g}",
        f"actual {last['actual_change']:.2g}",
        f"damping {last['damping']:.2g}",
        f"step length {last['step_length']:.3g}",
        METHOD_NAMES[int(last["method"])],
        f"skipped {last['skipped_steps']}{skipped}",
    ]
    if last["samples_coupled"]:
        parts.append("samples_coupled")
    return ", ".join(parts)


def _last_numbers(report: JointReport) -> dict[str, np.ndarray] | None:
    """The fields as numbers, the last along axes of `jax.lax.scan`; None without numbers."""
    fields = report._asdict()
    terms = fields.pop("term_losses")
    if isinstance(terms, Mapping):
        fields |= {f"term_losses/{name}": value for name, value in terms.items()}
    numbers: dict[str, np.ndarray] = {}
    for name, value in fields.items():
        number = concrete_numbers(value)
        if number is None or 0 in number.shape:
            return None
        numbers[name] = number.ravel()[-1]
    return numbers
