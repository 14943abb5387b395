"""Terms of the objective: per-sample residuals, their losses and weights.

| symbol  | meaning                                                   | shape            |
|---------|-----------------------------------------------------------|------------------|
| o_ki    | residual (or outputs) of sample i of term k               | [R_k]            |
| phi_k   | convex loss of one sample, half the sum of squares if None | scalar           |
| c_k     | weight of the term                                        | scalar           |
| F       | objective, `sum_k (c_k / N_k) sum_i phi_k(o_ki)`          | scalar           |
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from typing_extensions import override

from gtddp_jax.core.loss_pairing import check_loss_pairing
from gtddp_jax.core.types import Loss, Number, Outputs, PerSample, Scalar, Tree

# Users annotate the arguments more narrowly than `Tree`, see `core/types.py`.
if TYPE_CHECKING:
    Residual: TypeAlias = Callable[[Any, Any], Float[Array, "..."]]
    SampleLoss: TypeAlias = Callable[[Any, Any], Scalar]
    ApplyFn: TypeAlias = Callable[[Any, Any], Outputs]
else:
    Residual = Callable[[Tree, Tree], Float[Array, "..."]]
    SampleLoss = Callable[[Float[Array, " outputs"], Tree], Scalar]
    ApplyFn = Callable[[Tree, Tree], Outputs]


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of the objective: a mean over samples of a convex loss of a residual.

    Args:
        residual: `residual(params, sample) -> []` or `[...]`, a function of ONE sample. Samples
            must not influence each other.
        loss: `loss(outputs, sample) -> []`, convex and twice differentiable in the flattened
            outputs [R]; None for half the sum of squares, which needs one linear solve per step.
        weight: factor on the term's mean, positive.

    Example:
        >>> import gtddp_jax as gt
        >>> term = gt.Term(lambda params, x: params["w"] @ x - 1.0, weight=10.0)
    """

    residual: Residual
    loss: SampleLoss | None = None
    weight: Number = 1.0

    def __post_init__(self) -> None:
        if not callable(self.residual):
            raise ValueError(
                f"Term(residual={self.residual!r}): give a function residual(params, sample) of "
                "one sample that returns a number or an array."
            )
        if self.loss is not None and not callable(self.loss):
            raise ValueError(
                f"Term(loss={self.loss!r}): give a function loss(outputs, sample) -> scalar, or "
                "None for half the sum of squares."
            )
        if isinstance(self.weight, (int, float)) and not self.weight > 0:
            raise ValueError(f"Term(weight={self.weight!r}): give a number > 0.")

    def sample_loss(self, outputs: Float[Array, " outputs"], sample: Tree) -> Scalar:
        """The loss of one sample for its flattened outputs [R]."""
        if self.loss is None:
            return 0.5 * jnp.vdot(outputs, outputs)
        return self.loss(outputs, sample)

    def flat_residual(self, params: Tree, sample: Tree) -> Float[Array, " outputs"]:
        """The residual of one sample as a vector [R]."""
        return jnp.ravel(self.residual(params, sample))

    def batch_losses(self, params: Tree, samples: Tree) -> PerSample | None:
        """The losses [N] as a function of the whole batch; None if there is no such function."""
        del params, samples
        return None


@dataclasses.dataclass(frozen=True)
class SupervisedTerm(Term):
    """A model and a loss of a batch, called for one sample at a time; see `supervised_term`.

    Attributes:
        apply_fn: `apply_fn(params, inputs [B, ...]) -> outputs [B, ...]`.
        loss_of_batch: `loss(outputs, targets) -> [B]`.
    """

    apply_fn: ApplyFn = lambda params, inputs: inputs
    loss_of_batch: Loss = lambda outputs, targets: outputs

    @override
    def batch_losses(self, params: Tree, samples: Tree) -> PerSample | None:
        inputs, targets = _split_pair(samples)
        outputs = self.apply_fn(params, inputs)
        check_loss_pairing(self.loss_of_batch, outputs, targets)
        return self.loss_of_batch(outputs, targets)


def _split_pair(sample: Any) -> tuple[Any, Any]:
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise ValueError(
            "supervised_term: its samples must be a pair (inputs, targets), got "
            f"{type(sample).__name__}. Call tx.update(None, state, params, batch=(inputs, "
            'targets)), or batch={"fit": (inputs, targets), ...} for several terms.'
        )
    return sample[0], sample[1]


def supervised_term(apply_fn: ApplyFn, loss: Loss, weight: Number = 1.0) -> Term:
    """A term from a model and a loss as `implicit` takes them: the mean loss of a batch.

    Both are functions of a batch and are called with batches of one sample, because derivatives of
    single samples are what a joint step needs. Samples must be independent: batch normalization or
    a contrastive loss would give other results. Each step compares the losses with those of the
    whole batch, and skips itself where they differ (`JointReport.samples_coupled`).

    For a squared loss `Term(lambda params, sample: ...)` with the residual is faster: a step then
    needs one linear solve, and two or three in the form of this function.

    Args:
        apply_fn: `apply_fn(params, inputs) -> outputs`, an array [B, ...].
        loss: `loss(outputs, targets) -> [B]`, convex and twice differentiable in the outputs.
        weight: factor on the mean loss, positive.

    Returns:
        A term whose samples are `(inputs, targets)`, [N, ...].

    Raises:
        ValueError: an argument has the wrong type. In a step: the model does not return one array
            of floating-point numbers, or the loss does not return [B].

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        >>> tx = gt.joint(gt.supervised_term(lambda w, x: x @ w, cross_entropy), 1e-3)
        >>> w = jnp.zeros((3, 2))
        >>> batch = (jnp.eye(3), jnp.array([0, 1, 1]))
        >>> updates, state = tx.update(None, tx.init(w), w, batch=batch)
        >>> bool(state.report.actual_change < -0.1)
        True
    """
    if not callable(apply_fn) or not callable(loss):
        raise ValueError(
            "supervised_term: give a model and a loss, supervised_term(apply_fn, loss), with "
            "apply_fn(params, inputs) -> outputs [B, ...] and loss(outputs, targets) -> [B]."
        )
    shapes: dict[str, tuple[int, ...]] = {}

    def outputs_of(params: Any, sample: Any) -> jax.Array:
        inputs, _ = _split_pair(sample)
        outputs: Any = apply_fn(params, jax.tree.map(lambda leaf: leaf[None], inputs))
        if not hasattr(outputs, "shape") or outputs.shape[:1] != (1,):
            raise ValueError(
                "supervised_term: apply_fn must return one array [B, ...], got "
                f"{_shape_text(outputs)} for a batch of one. Return only what the loss needs, "
                "concatenated, or write a Term."
            )
        # The loss is called after the model, with outputs that were flattened in between.
        shapes["outputs"] = outputs.shape
        return outputs[0]

    def loss_of(outputs: Any, sample: Any) -> jax.Array:
        _, targets = _split_pair(sample)
        batch = outputs.reshape(shapes["outputs"])
        losses = loss(batch, jax.tree.map(lambda leaf: leaf[None], targets))
        if jnp.shape(losses) != (1,):
            raise ValueError(
                f"supervised_term: loss(outputs, targets) returned shape {jnp.shape(losses)} for a "
                "batch of one; it must return one loss per sample, [B]."
            )
        return losses[0]

    return SupervisedTerm(outputs_of, loss_of, weight, apply_fn, loss)


def _shape_text(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"shape {shape}"


def as_terms(terms: Any) -> dict[str, Term] | None:
    """Checks and completes the argument `terms` of `joint`; None stays None.

    Raises:
        ValueError: `terms` is not a non-empty dict of terms or residual functions.
    """
    if terms is None:
        return None
    if callable(terms) or isinstance(terms, Term):
        terms = {"loss": terms}
    if not isinstance(terms, Mapping) or not terms:
        raise ValueError(
            f"joint: terms={terms!r} must be a non-empty dict such as "
            '{"pde": residual, "boundary": gt.Term(residual, weight=10.0)}, or one residual '
            "function of (params, sample), or None with tx.update(..., losses=...)."
        )
    # Sorted, because JAX gives dicts back with sorted keys: outputs are flattened in this order.
    return {
        str(name): term if isinstance(term, Term) else Term(term)
        for name, term in sorted(terms.items())
    }


def split_batch_by_term(terms: Mapping[str, Term], batch: Any) -> dict[str, Tree]:
    """The samples of each term, `{name: leaves [N_k, ...]}`.

    Raises:
        ValueError: the batch has other names than the terms, or a term has no samples.
    """
    if batch is None:
        raise ValueError(
            "joint: update is missing batch. Call tx.update(None, state, params, batch="
            f"{{{', '.join(f'{name!r}: samples' for name in terms)}}})."
        )
    if not isinstance(batch, Mapping) or set(batch) != set(terms):
        if len(terms) == 1 and not (isinstance(batch, Mapping) and set(batch) & set(terms)):
            batch = {next(iter(terms)): batch}
        else:
            given = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
            raise ValueError(
                f"joint: batch must have samples for exactly the terms {sorted(terms)}, got "
                f"{given}."
            )
    for name, samples in batch.items():
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(samples)}
        if len(sizes) != 1 or () in sizes:
            raise ValueError(
                f"joint: the samples of term {name!r} must be arrays [N, ...] with one N; got "
                f"leading shapes {sorted(sizes)}."
            )
        if sizes == {(0,)}:
            raise ValueError(f"joint: term {name!r} has no samples; a step needs at least one.")
    return dict(batch)


def sample_count(samples: Tree) -> int:
    """N, the number of samples of a term."""
    return jax.tree.leaves(samples)[0].shape[0]
