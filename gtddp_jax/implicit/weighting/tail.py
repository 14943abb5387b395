"""`Tail`: the last layers predict the step for the whole network.

    n = kappa n_tail,   s0 = kappa_momentum s0_tail,   then the scalar equation of `Product`

n_tail needs the adjoints of the tail only. kappa is the regression of the whole network's n on
n_tail. It is calibrated after the step, along the step that was taken: at steps 0, 1, 2, 4, 8, ...
and every `calibrate_every`-th. Until the first calibration the weights are 1. Two samples or fewer
always agree, which is no evidence, so batches of this size calibrate nothing. Derived in
docs/mathematics.md, "The implicit game".
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from typing_extensions import override

from gtddp_jax.core.counted_samples import CountedSamples
from gtddp_jax.core.safety import tree_where
from gtddp_jax.core.trees import tree_vdot, upcast
from gtddp_jax.core.types import Count, Flag, Number, PerSample, Scalar, Tree
from gtddp_jax.implicit.predictors import PredictorMask, PredictorSet, resolve_predictors
from gtddp_jax.implicit.weighting.base import Prediction, SampleWeighting, WeightingContext
from gtddp_jax.implicit.weighting.product import check_response, step_influence
from gtddp_jax.terminal.scalar_equation import solve_sample_weights

MAX_SETS = 4
"""Number of predictor sets that a state has room for."""

FEWEST_SAMPLES = 3
"""The fewest samples with a gradient that a calibration needs."""

TINY = 1e-30
"""Keeps the regression finite where the predictor has no influence at all."""


class TailState(NamedTuple):
    """What calibrations have measured: one entry per predictor set, unused entries zero.

    Attributes:
        kappa: [4] float32, ratio of influences.
        kappa_momentum: [4] float32, ratio of the momentum steps' influences.
        correlation: [4] float32, of n with n_tail over the samples of the calibration batch, see
            `adjusted_correlation`.
        chosen: int32, the set in use.
        pending: bool, whether a calibration is due because none has succeeded yet, or because there
            was nothing to measure when one was scheduled: the base did not move (accumulated
            gradients), or fewer than three samples had a gradient.
    """

    kappa: Float[Array, " sets"]
    kappa_momentum: Float[Array, " sets"]
    correlation: Float[Array, " sets"]
    chosen: Count
    pending: Flag


class MeasuredInfluence(NamedTuple):
    """Influence of some parameters along a step that was taken; s0 and n as in `StepInfluence`."""

    s0: PerSample
    n: PerSample


@dataclasses.dataclass(frozen=True)
class Tail(SampleWeighting[TailState]):
    """Predict with a part of the network, for all of it.

    Calibrations need at least three samples with a gradient. With batches of one or two samples
    the weights stay 1; use `Product` or `Newton` there.

    Args:
        players: "auto" (the shortest of a few tails that predicts well enough; costs as much as
            the longest of them), "head" (from the last matrix product on), a path such as
            "Dense_1", a boolean mask over the parameters as in `optax.masked`, or a function from
            the parameters to such a mask.
        calibrate_every: compare the prediction with the whole network every `calibrate_every`
            steps, at the cost of two directional derivatives.
        good: correlation (see `Prediction`) from which on the weights are fully used.
        poor: correlation below which the weights are 1; in between they fade linearly.
        memory: share of the old value in the running averages of kappa and correlation.
        most: upper bound on kappa.
        cost_limit: largest share of the network's multiply-adds that "auto" may use; a step then
            costs about `1 + 2 cost_limit` plain steps.
        response: factor on n in [0, 1], or "auto": 1 for a base with momentum, 0 for one without,
            which an implicit step would only slow down.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> import gtddp_jax as gt
        >>> weighting = gt.weighting.Tail("head", calibrate_every=100)
    """

    needs_all_players: ClassVar[bool] = False
    players: str | PredictorMask = "auto"
    calibrate_every: int = 50
    good: float = 0.9
    poor: float = 0.5
    memory: float = 0.5
    most: float = 100.0
    cost_limit: float = 0.1
    response: str | Number = "auto"

    def __post_init__(self) -> None:
        check_response("Tail", self.response)
        if not (
            self.calibrate_every >= 1
            and -1 <= self.poor < self.good <= 1
            and 0 <= self.memory < 1
            and self.most > 0
            and 0 < self.cost_limit <= 1
        ):
            raise ValueError(
                f"weighting.{self}: calibrate_every >= 1, -1 <= poor < good <= 1, 0 <= memory < 1, "
                "most > 0 and 0 < cost_limit <= 1 are needed."
            )

    @override
    def init_state(self, params: Tree) -> TailState:
        del params

        def zero_array() -> jax.Array:
            # A new array for each field, because aliased buffers cannot be donated.
            return jnp.zeros(MAX_SETS, jnp.float32)

        return TailState(
            zero_array(),
            zero_array(),
            zero_array(),
            chosen=jnp.zeros((), jnp.int32),
            pending=jnp.full((), True),
        )

    def _predictor_sets(self, context: WeightingContext) -> list[PredictorSet]:
        return resolve_predictors(
            self.players, context.base.params, context.parameter_costs(), self.cost_limit
        )

    @override
    def compute_weights(
        self, context: WeightingContext, state: TailState
    ) -> tuple[PerSample, TailState, Prediction]:
        predictor_sets = self._predictor_sets(context)
        # Which set is used is only known at run time, so all need the adjoints of the longest.
        longest = predictor_sets[-1]
        q, jvp_fn = context.losses.restrict(longest.select_leaves)
        membership = [
            jnp.asarray([leaf in predictor_set.leaves for predictor_set in predictor_sets])
            for leaf in longest.leaves
        ]

        def jvp_of_chosen(change: Tree) -> PerSample:
            """The change of the losses by those leaves that belong to the set in use."""
            if len(predictor_sets) == 1:
                return jvp_fn(change)
            pairs = zip(membership, jax.tree.leaves(change), strict=True)
            return jvp_fn(
                [jnp.where(member[state.chosen], x, jnp.zeros_like(x)) for member, x in pairs]
            )

        s0, n, response_factor = step_influence(
            context.base,
            longest.embed_leaves(q, context.base.params),
            jvp_of_chosen,
            longest.select_leaves,
            self.response,
        )
        kappa, kappa_momentum = state.kappa[state.chosen], state.kappa_momentum[state.chosen]
        n = response_factor * kappa * n
        w = solve_sample_weights(context.losses.expansion, kappa_momentum * s0, n, context.bounds)
        trust = self._trust_factor(state)
        prediction = Prediction(
            correlation=state.correlation[state.chosen],
            kappa=kappa,
            kappa_momentum=kappa_momentum,
            fraction=jnp.asarray(
                [predictor_set.fraction for predictor_set in predictor_sets], jnp.float32
            )[state.chosen],
            trust=trust,
            response=response_factor.astype(jnp.float32),
        )
        # A poor predictor fades to the base alone.
        return 1 + trust * (w - 1), state, prediction

    @override
    def update_state(self, context: WeightingContext, state: TailState, q: Tree) -> TailState:
        """Calibrate along the step for `q`, if a calibration is due."""
        # Early in training kappa changes fast: also calibrate at powers of two, 0 included.
        is_power_of_two = (context.step & (context.step - 1)) == 0
        is_due = state.pending | is_power_of_two | (context.step % self.calibrate_every == 0)
        predictor_sets = self._predictor_sets(context)
        counted = context.losses.counted

        def calibrate() -> Tree:
            step_parts = context.base.split_update(q)
            whole_network = PredictorSet(tuple(range(len(jax.tree.leaves(q)))), 1.0)

            def measure_influence(players: PredictorSet) -> MeasuredInfluence:
                s0, n = context.losses.jvp(players.select_leaves, list(step_parts))
                predict = context.base.predict_momentum
                return MeasuredInfluence(upcast(s0) if predict else jnp.zeros_like(n), -upcast(n))

            set_influences = [measure_influence(players) for players in predictor_sets]
            new_state = self._calibrated_state(
                counted, state, measure_influence(whole_network), set_influences
            )
            # Without a response there is nothing to measure: try again in the next step.
            responds = tree_vdot(step_parts.gradient_response, step_parts.gradient_response) > 0
            return tree_where(responds, new_state, state._replace(pending=jnp.full((), True)))

        return jax.lax.cond(
            is_due & (counted.count >= FEWEST_SAMPLES),
            calibrate,
            lambda: state._replace(pending=is_due),
        )

    def _trust_factor(self, state: TailState) -> Scalar:
        share = (state.correlation[state.chosen] - self.poor) / (self.good - self.poor)
        return jnp.clip(share, 0.0, 1.0)

    def _calibrated_state(
        self,
        counted: CountedSamples,
        state: TailState,
        whole_influence: MeasuredInfluence,
        set_influences: list[MeasuredInfluence],
    ) -> TailState:
        """The state after a calibration, given the influence of the whole network and each set."""

        def running_average(
            old_values: jax.Array, new_values: list[jax.Array], is_measured: jax.Array
        ) -> jax.Array:
            count = len(new_values)
            share = jnp.where(is_measured[:count], self.memory, 0.0)
            mixed_values = share * old_values[:count] + (1 - share) * jnp.stack(new_values).astype(
                old_values.dtype
            )
            return jnp.zeros_like(old_values).at[:count].set(mixed_values.astype(old_values.dtype))

        def regression_slope(y: PerSample, x: PerSample) -> Scalar:
            """Slope of the regression of y on x through the origin."""
            ratio = counted.mean(x * y) / jnp.maximum(counted.mean(x * x), TINY)
            return jnp.clip(ratio, 0.0, self.most)

        # A ratio of zero means that nothing has been measured yet. A correlation of zero may have
        # been measured.
        kappa = running_average(
            state.kappa,
            [regression_slope(whole_influence.n, part.n) for part in set_influences],
            state.kappa > 0,
        )
        kappa_momentum = running_average(
            state.kappa_momentum,
            [regression_slope(whole_influence.s0, part.s0) for part in set_influences],
            state.kappa_momentum > 0,
        )
        correlation = running_average(
            state.correlation,
            [adjusted_correlation(whole_influence.n, part.n, counted) for part in set_influences],
            (state.kappa > 0) | (state.correlation != 0),
        )
        # The first set that is good enough, which is the cheapest; else the best.
        used_correlations = correlation[: len(set_influences)]
        chosen = jnp.where(
            (used_correlations >= self.good).any(),
            jnp.argmax(used_correlations >= self.good),
            jnp.argmax(used_correlations),
        )
        return TailState(
            kappa, kappa_momentum, correlation, chosen.astype(jnp.int32), jnp.full((), False)
        )


def adjusted_correlation(first: PerSample, second: PerSample, counted: CountedSamples) -> Scalar:
    """Pearson's correlation r over the n samples with a gradient, adjusted for how few they are.

    `sign(r) sqrt(max(0, 1 - (1 - r^2) (n - 1) / (n - 2)))`, the square root of the adjusted
    coefficient of determination: a regression line leaves n - 2 degrees of freedom. Without it two
    samples would always agree. 0 for n <= 2, or if one of the two is constant.
    """
    first, second = first - counted.mean(first), second - counted.mean(second)
    covariance = counted.mean(first * second)
    scale = jnp.sqrt(counted.mean(first * first)) * jnp.sqrt(counted.mean(second * second))
    r = jnp.where(scale > 0, covariance / jnp.where(scale > 0, scale, 1.0), 0.0)
    n = counted.count.astype(r.dtype)
    # Rounding may push r beyond 1.
    unexplained = jnp.maximum(1 - r**2, 0) * (n - 1) / jnp.maximum(n - 2, 1)
    adjusted = jnp.sign(r) * jnp.sqrt(jnp.maximum(1 - unexplained, 0))
    return jnp.where(n > 2, adjusted, 0.0)
