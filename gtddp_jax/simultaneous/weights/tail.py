"""`tail`: the last players announce their move, everyone answers (DESIGN §4, "Nearly free").

    n = kappa n_tail,   s0 = kappa_drift s0_tail,   then `product`'s scalar equation

n_tail needs the adjoints of the tail only. kappa is the regression of the whole network's n on
n_tail. It is measured after the step, along the step that was made: at steps 0, 1, 2, 4, 8, ...
and every `calibrate_every`-th. Before the first measurement the weights are 1.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gtddp_jax.core.safety import choose
from gtddp_jax.core.samples import Samples
from gtddp_jax.core.trees import vdot, wide
from gtddp_jax.core.types import Count, Flag, Number, PerSample, Tree
from gtddp_jax.simultaneous.tails import PlayerSet, resolve
from gtddp_jax.simultaneous.weights.base import (
    Context,
    Prediction,
    WeightModel,
    whole_network,
)
from gtddp_jax.simultaneous.weights.product import check_response, influence
from gtddp_jax.terminal.solve import scalar_weights

MOST_SETS = 4
TINY = 1e-30


class TailState(NamedTuple):
    """What calibrations have found; one entry for each predicting set, unused ones zero.

    Attributes:
        kappa: [4] float32, ratio of influences.
        kappa_drift: [4] float32, ratio of drifts.
        correlation: [4] float32, of n with n_tail over the samples of the calibration batch.
        chosen: int32, the set in use.
        pending: bool, whether a calibration is due: none has been made, or the base did not move
            when it was its turn (accumulated gradients).
    """

    kappa: Float[Array, " sets"]
    kappa_drift: Float[Array, " sets"]
    correlation: Float[Array, " sets"]
    chosen: Count
    pending: Flag


@dataclasses.dataclass(frozen=True)
class tail(WeightModel):  # noqa: N801  (a constructor)
    """A part of the network predicts for all of it.

    Args:
        players: "auto" (the shortest of a few tails that is good enough; costs as much as the
            longest of them), "head" (from the last matrix product on), a path such as "Dense_1",
            or a boolean mask over the parameters as in `optax.masked`.
        calibrate_every: calibrations compare the prediction with the whole network every so many
            steps, at the price of two directional derivatives.
        good: correlation from which a set is good enough; weights are then fully used.
        poor: correlation below which weights are 1. In between they fade.
        memory: share of the old value in the running averages of kappa and correlation.
        most: bound on kappa.
        cost_limit: largest share of the network's multiply-adds that "auto" may use; a step then
            costs about `1 + 2 cost_limit` plain ones.

        response: factor on n in [0, 1], or "auto": 1 for a base with momentum, 0 for one without,
            which an implicit step only slows down (see `influence`).

    Raises:
        ValueError: a number out of its range.

    Example:
        >>> import gtddp_jax as gt
        >>> weights = gt.weights.tail("head", calibrate_every=100)
    """

    whole: ClassVar[bool] = False
    players: str | Tree = "auto"
    calibrate_every: int = 50
    good: float = 0.9
    poor: float = 0.5
    memory: float = 0.5
    most: float = 100.0
    cost_limit: float = 0.1
    response: str | Number = "auto"

    def __post_init__(self) -> None:
        check_response("tail", self.response)
        if not (
            self.calibrate_every >= 1
            and -1 <= self.poor < self.good <= 1
            and 0 <= self.memory < 1
            and self.most > 0
            and 0 < self.cost_limit <= 1
        ):
            raise ValueError(
                f"weights.{self}: calibrate_every >= 1, -1 <= poor < good <= 1, 0 <= memory < 1, "
                "most > 0 and 0 < cost_limit <= 1 are needed."
            )

    def init(self, params: Tree) -> TailState:
        """See `WeightModel`."""
        del params
        figures = [jnp.zeros(MOST_SETS, jnp.float32) for _ in range(3)]  # no buffer twice
        return TailState(*figures, chosen=jnp.zeros((), jnp.int32), pending=jnp.full((), True))

    def _sets(self, context: Context) -> list[PlayerSet]:
        return resolve(self.players, context.base.params, context.order(), self.cost_limit)

    def weights(
        self, context: Context, state: TailState
    ) -> tuple[PerSample, TailState, Prediction]:
        """See `WeightModel`."""
        sets = self._sets(context)
        longest = sets[-1]
        q, push = context.model.part(longest.select)
        whole = longest.embed(q, context.base.params)
        chosen = [jnp.asarray([leaf in s.leaves for s in sets]) for leaf in longest.leaves]

        def push_chosen(change: list[jax.Array]) -> jax.Array:
            if len(sets) == 1:
                return push(change)
            parts = zip(chosen, change, strict=True)
            return push([jnp.where(c[state.chosen], v, jnp.zeros_like(v)) for c, v in parts])

        s0, n, share = influence(context.base, whole, push_chosen, longest.select, self.response)
        kappa, drift = state.kappa[state.chosen], state.kappa_drift[state.chosen]
        n = share * kappa * n
        w = scalar_weights(context.model.expansion, drift * s0, n, context.bounds)
        trust = self._trust(state)
        report = Prediction(
            correlation=state.correlation[state.chosen],
            kappa=kappa,
            kappa_drift=drift,
            fraction=jnp.asarray([s.fraction for s in sets], jnp.float32)[state.chosen],
            trust=trust,
            radius=whole_network().radius,
            response=share.astype(jnp.float32),
        )
        return 1 + trust * (w - 1), state, report

    def learn(self, context: Context, state: TailState, q: Tree) -> TailState:
        """See `WeightModel`: calibrates, if it is time to."""
        power_of_two = (context.step & (context.step - 1)) == 0
        due = state.pending | power_of_two | (context.step % self.calibrate_every == 0)
        sets = self._sets(context)

        def calibrate() -> TailState:
            rest, response = context.base.split(q)
            everything = PlayerSet(tuple(range(len(jax.tree.leaves(q)))), 1.0)

            def measured(players: PlayerSet) -> tuple[jax.Array, jax.Array]:
                s0, n = context.model.along(players.select, [rest, response])
                return (wide(s0) if context.base.drift else jnp.zeros_like(n)), -wide(n)

            parts = [measured(players) for players in sets]
            found = self._calibrated(context, state, measured(everything), parts)
            moved = vdot(response, response) > 0
            return choose(moved, found, state._replace(pending=jnp.full((), True)))

        return jax.lax.cond(due, calibrate, lambda: state)

    def _trust(self, state: TailState) -> jax.Array:
        share = (state.correlation[state.chosen] - self.poor) / (self.good - self.poor)
        return jnp.clip(share, 0.0, 1.0)

    def _calibrated(
        self,
        context: Context,
        state: TailState,
        whole: tuple[jax.Array, jax.Array],
        parts: list[tuple[jax.Array, jax.Array]],
    ) -> TailState:
        samples = context.model.samples
        s0, n = whole

        def averaged(old: jax.Array, new: list[jax.Array]) -> jax.Array:
            fresh = jnp.stack(new).astype(old.dtype)
            share = jnp.where(old[: fresh.size] == 0, 0.0, self.memory)  # nothing known yet
            mixed = share * old[: fresh.size] + (1 - share) * fresh
            return jnp.zeros_like(old).at[: fresh.size].set(mixed.astype(old.dtype))

        def slope(y: jax.Array, x: jax.Array) -> jax.Array:
            ratio = samples.mean(x * y) / jnp.maximum(samples.mean(x * x), TINY)
            return jnp.clip(ratio, 0.0, self.most)

        kappa = averaged(state.kappa, [slope(n, n_set) for _, n_set in parts])
        drift = averaged(state.kappa_drift, [slope(s0, s_set) for s_set, _ in parts])
        measured = averaged(state.correlation, [correlation(n, x, samples) for _, x in parts])
        live = measured[: len(parts)]
        chosen = jnp.where(
            (live >= self.good).any(), jnp.argmax(live >= self.good), jnp.argmax(live)
        )
        return TailState(kappa, drift, measured, chosen.astype(jnp.int32), jnp.full((), False))


def correlation(a: jax.Array, b: jax.Array, samples: Samples) -> jax.Array:
    """Pearson's correlation over all samples; 1 for a single sample, 0 if one of them is flat."""
    if samples.axis_name is None and samples.local == 1:
        return jnp.ones((), a.dtype)
    a, b = a - samples.mean(a), b - samples.mean(b)
    covariance = samples.mean(a * b)
    size = jnp.sqrt(samples.mean(a * a)) * jnp.sqrt(samples.mean(b * b))
    return jnp.where(size > 0, covariance / jnp.where(size > 0, size, 1.0), 0.0)
