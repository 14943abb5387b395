"""`joint`: the exact game in sample space, as an optax transformation."""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from gtddp_jax.core import validation
from gtddp_jax.core.call_context import TRANSPARENT, optax_callers, refuse_lost_updates
from gtddp_jax.core.explicit_sharding import explicit_mesh, sharding_of
from gtddp_jax.core.report import StepObserver
from gtddp_jax.core.transformation import game_transformation
from gtddp_jax.core.types import AxisName, Number, Rate, Tree
from gtddp_jax.joint.damping_rules import Damping, as_damping
from gtddp_jax.joint.game import JointGame, JointState
from gtddp_jax.joint.losses_objective import LossesObjective
from gtddp_jax.joint.metrics import IdentityMetric, Metric
from gtddp_jax.joint.objective import TermObjective
from gtddp_jax.joint.step import JointStep
from gtddp_jax.joint.step_control import LineSearch, StepRule
from gtddp_jax.joint.terms import Residual, Term, as_terms, split_batch_by_term

MULTI_STEPS_AROUND = (
    "joint inside optax.MultiSteps would see the last mini-batch only. A joint step needs all its "
    "samples at once: pass one larger batch, and bound the memory by joint(..., chunk=n)."
)
WRAPPER_AROUND = (
    "joint inside optax's {wrapper} is not supported, because {wrapper} changes the parameters, "
    "the arguments or the step of the game. Use joint(...) alone or in an optax.chain; its own "
    "momentum, metric and step rules replace most wrappers."
)
HIDDEN_PARAMS = (
    "joint needs all parameters to evaluate the terms, but some are hidden by optax.masked or "
    "optax.multi_transform. Freeze parameters where they are used: "
    "jax.lax.stop_gradient(params['frozen']) in the residual."
)
TWO_SOURCES = (
    "joint: the game has terms, so update takes batch={term: samples} and no function of losses. "
    "For tx.update(None, state, params, losses=...) build it without terms: joint(), with options."
)
NO_VALIDATION_TERMS = (
    "joint: validation_batch needs terms to evaluate it by. Give the game terms: "
    "joint(gt.supervised_term(apply_fn, loss)) with batch=(inputs, targets)."
)
EXPLICIT_LOSSES = (
    "joint: a function of losses closes over its batch, which cannot enter the step where arrays "
    "belong to a mesh with axes of type Explicit. Give the game terms and pass batch=..., or make "
    "the mesh with axis_types=(jax.sharding.AxisType.Auto,)."
)


def joint(
    terms: Mapping[str, Residual | Term] | Residual | Term | None = None,
    damping: Damping | Rate | None = None,
    momentum: Rate = 0.0,
    metric: Metric | None = None,
    step: StepRule | None = None,
    *,
    acceleration: Number | None = None,
    side: str = "auto",
    chunk: int | None = None,
    gram_dtype: DTypeLike | None = None,
    newton_steps: int = 30,
    conjugate_gradient_steps: int = 100,
    memory_limit: Number = 4e9,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """All players minimize the common objective together: exact Gauss-Newton in sample space.

    Each step minimizes, over one change d of all parameters,

        sum_k (c_k / N_k) sum_i phi_k(o_ki + J_ki d) + lambda / 2 (d - d0)^T M (d - d0)

    the objective with linearized outputs, held near the momentum step `d0 = momentum * last step`
    in the metric M. For squared losses that is one linear system with as many unknowns as outputs
    (or parameters, whichever are fewer). Special cases with M = 1: Levenberg-Marquardt and ENGD-W
    (no momentum), SPRING (momentum, `step=FixedRate`). It pays where networks are small and
    accuracy counts: physics-informed networks, regression, system identification.

    Args:
        terms: residual functions of one sample by name, `residual(params, sample) -> [] or [...]`,
            or `Term`s, which add a convex loss and a weight. One function alone is a dict of one.
            None if every update receives `losses=...`.
        damping: lambda: a number, an optax schedule, or a rule from `gtddp_jax.damping`; None for
            `RelativeDamping()`.
        momentum: factor on the last step in d0, in [0, 1), or a schedule of the step count.
        metric: M, from `gtddp_jax.metrics`; None for the identity.
        step: how far to go, from `gtddp_jax.step_control`; None for `LineSearch()`.
        acceleration: bound on |a| / |d| for geodesic acceleration; 0.75 is usual. The step then
            follows `length d + length^2 a / 2`, with the second derivative of the outputs along d
            taken into account. It costs one more solve and no more rows. Where the ratio is larger
            the step is straight. None for straight steps.
        side: "dual" solves a system of the size of all outputs, "primal" one of the size of all
            parameters, "matrix_free" runs conjugate gradients on products; "auto" takes the
            smaller system unless it exceeds `memory_limit`.
        chunk: number of samples whose derivatives are held at once; None for all. Memory is about
            `2 chunk R p` numbers and the system; with chunks, rows are computed more than once.
        gram_dtype: of the system; None for float64 where JAX has it enabled, else float32.
        newton_steps: largest number of Newton steps for losses that are not squared.
        conjugate_gradient_steps: largest number of them per system for `side="matrix_free"`.
        memory_limit: bytes that the system may take before "auto" becomes matrix-free, with a
            warning.
        axis_name: the mapped axis of `pmap` or `shard_map` over which samples are spread. Not
            needed under `jit` with a sharded batch.

    Returns:
        An `optax.GradientTransformationExtraArgs` whose `update` needs `params`, and
        `batch={term: samples}`, leaves [N_k, ...], or `losses=lambda params: ...` (see `Losses`).
        Its first argument is the gradient of a running cost, which enters the objective as a linear
        function of d, or None. With `validation_batch` the gain ratio is judged on these samples.
        The state has a `report`.

    Raises:
        ValueError: an argument has the wrong type or is out of range.

    Warns:
        GameWarning: the system is larger than `memory_limit`, or steps run outside of `jax.jit`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import gtddp_jax as gt
        >>> def residual(params, sample):
        ...     x, y = sample
        ...     return params["a"] * jnp.exp(params["b"] * x) - y
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> tx = gt.joint(residual)
        >>> step = gt.make_update(tx)
        >>> params = {"a": jnp.array(1.0), "b": jnp.array(0.0)}
        >>> state = tx.init(params)
        >>> for _ in range(8):
        ...     params, state = step(params, state, (x, 2.0 * jnp.exp(-x)))
        >>> bool(abs(params["a"] - 2.0) < 1e-3)
        True
    """
    game = JointGame(
        terms=as_terms(terms),
        damping=as_damping(damping),
        momentum=momentum,
        metric=IdentityMetric() if metric is None else metric,
        step_rule=LineSearch() if step is None else step,
        acceleration=acceleration,
        side=side,
        chunk=chunk,
        gram_dtype=gram_dtype,
        newton_steps=newton_steps,
        conjugate_gradient_steps=conjugate_gradient_steps,
        memory_limit=memory_limit,
        axis_name=axis_name,
    )

    # Typed loosely, because optax's own tree types also admit Python numbers, but not None.
    def init(params: Any) -> Any:
        _check_params(params)
        return game.init(params)

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        batch: Any = None,
        losses: Any = None,
        validation_batch: Any = None,
        observe_step: StepObserver | None = None,
        **extra_args: Any,
    ) -> tuple[Any, Any]:
        del extra_args
        _check_sources(game, params, batch, losses, validation_batch)
        _check_params(params)
        validation.check_state("joint", state, JointState)
        validation.check_updates("joint", updates, params)
        refuse_lost_updates("joint", updates)
        given = (updates, state, params, batch, validation_batch)
        return _take_step(game, given, losses, observe_step)

    names = "losses" if game.terms is None else list(game.terms)
    return game_transformation(
        "joint", init, update, names, damping=game.damping, momentum=momentum, metric=game.metric
    )


def _take_step(
    game: JointGame, given: tuple[Any, ...], losses: Any, observe: StepObserver | None
) -> tuple[Any, Any]:
    def step(updates: Any, state: Any, params: Any, batch: Any, validation_batch: Any) -> Any:
        checked = None
        if game.terms is None:
            objective: Any = LossesObjective(losses, params, game.axis_name)
            aux = objective.aux
        else:
            samples = split_batch_by_term(game.terms, batch)
            objective, aux = TermObjective(game.terms, samples, game.axis_name), None
            if validation_batch is not None:
                others = split_batch_by_term(game.terms, validation_batch)
                checked = TermObjective(game.terms, others, game.axis_name)
        joint_step = JointStep(game, state, params, updates, objective)
        return joint_step.take(checked, observe, aux)

    mesh = explicit_mesh(given)
    if mesh is None:
        return step(*given)
    if losses is not None:
        raise ValueError(EXPLICIT_LOSSES)
    # The compiler decides how the arrays in between are spread, as for a sharded batch.
    _, state, params, _, _ = given

    def spread_of(leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, sharding_of(leaf).spec)

    spread = jax.tree.map(spread_of, (params, state))
    run: Any = jax.sharding.auto_axes(step, axes=mesh.explicit_axes, out_sharding=spread)
    return run(*given)


def _check_sources(
    game: JointGame, params: Any, batch: Any, losses: Any, validation_batch: Any
) -> None:
    """Raises unless update received parameters and either a batch for the terms or losses."""
    if game.terms is None:
        validation.check_losses_argument("joint", params, batch, losses)
        if validation_batch is not None:
            raise ValueError(NO_VALIDATION_TERMS)
        return
    if losses is not None:
        raise ValueError(TWO_SOURCES)
    if params is None:
        raise ValueError(
            "joint: update is missing params. Call tx.update(None, state, params, batch=...)."
        )
    split_batch_by_term(game.terms, batch)


def _check_params(params: Tree) -> None:
    for caller in optax_callers():
        if caller.wrapper == "MultiSteps":
            raise ValueError(MULTI_STEPS_AROUND)
        if caller.wrapper not in TRANSPARENT:
            raise ValueError(WRAPPER_AROUND.format(wrapper=caller.wrapper))
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    if any(isinstance(leaf, optax.MaskedNode) for leaf in leaves):
        raise ValueError(HIDDEN_PARAMS)
    validation.check_float_params("joint", params)
