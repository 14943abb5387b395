"""`tail`: the last players announce their move, everyone answers (DESIGN §4, "Nearly free").

    n = kappa n_tail,   s0 = kappa_drift s0_tail,   then `product`'s scalar equation

n_tail needs the adjoints of the tail only. kappa is the regression of the whole network's n on
n_tail, measured at calibrations: at steps 0, 1, 2, 4, 8, ... and every `calibrate_every`-th.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.core.samples import Samples
from gtddp_jax.implicit.solve import scalar_weights
from gtddp_jax.implicit.tails import PlayerSet, resolve
from gtddp_jax.implicit.weights.base import Context, Prediction, WeightModel, whole_network
from gtddp_jax.implicit.weights.product import influence

Tree = Any
MOST_SETS = 4
TINY = 1e-30


class TailState(NamedTuple):
    """What calibrations have found; one entry for each predicting set, unused ones zero.

    Attributes:
        kappa: [4] float32, ratio of influences.
        kappa_drift: [4] float32, ratio of drifts.
        correlation: [4] float32, of n with n_tail over the samples of the calibration batch.
        chosen: int32, the set in use.
    """

    kappa: jax.Array
    kappa_drift: jax.Array
    correlation: jax.Array
    chosen: jax.Array


@dataclasses.dataclass(frozen=True)
class tail(WeightModel):  # noqa: N801  (a constructor)
    """A part of the network predicts for all of it.

    Args:
        players: "auto" (the shortest of a few tails that is good enough), "head" (from the last
            matrix product on), a path such as "Dense_1", or a boolean mask over the parameters as
            in `optax.masked`.
        calibrate_every: calibrations compare the prediction with the whole network every so many
            steps, at the price of `product`.
        good: correlation from which a set is good enough; weights are then fully used.
        poor: correlation below which weights are 1. In between they fade.
        memory: share of the old value in the running averages of kappa and correlation.
        most: bound on kappa.
        cost_limit: largest share of the network's multiply-adds that "auto" may choose.

    Raises:
        ValueError: a number out of its range.

    Example:
        >>> import gtddp_jax as gt
        >>> weights = gt.weights.tail("head", calibrate_every=100)
    """

    players: Any = "auto"
    calibrate_every: int = 50
    good: float = 0.9
    poor: float = 0.5
    memory: float = 0.5
    most: float = 100.0
    cost_limit: float = 0.15

    def __post_init__(self) -> None:
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
        zeros = jnp.zeros(MOST_SETS, jnp.float32)
        return TailState(zeros, zeros, zeros, jnp.zeros((), jnp.int32))

    def weights(
        self, context: Context, state: TailState
    ) -> tuple[jax.Array, TailState, Prediction]:
        """See `WeightModel`."""
        sets = resolve(self.players, context.base.params, context.order(), self.cost_limit)

        def predict(chosen: PlayerSet) -> tuple[jax.Array, jax.Array]:
            return _influence(context, chosen)

        def calibrate(state: TailState) -> tuple[jax.Array, jax.Array, TailState, jax.Array]:
            everything = PlayerSet(tuple(range(len(jax.tree.leaves(context.base.params)))), 1.0)
            s0, n = predict(everything)
            new = self._calibrated(context, state, s0, n, [predict(chosen) for chosen in sets])
            return s0, n, new, jnp.ones((), jnp.float32)

        def use(state: TailState) -> tuple[jax.Array, jax.Array, TailState, jax.Array]:
            branches = [lambda chosen=chosen: predict(chosen) for chosen in sets]
            s0, n = jax.lax.switch(state.chosen, branches) if len(sets) > 1 else branches[0]()
            kappa, drift = state.kappa[state.chosen], state.kappa_drift[state.chosen]
            return drift * s0, kappa * n, state, self._trust(state)

        s0, n, state, trust = jax.lax.cond(self._due(context.step), calibrate, use, state)
        w = scalar_weights(context.model.expansion, s0, n, context.bounds)
        fraction = jnp.asarray([chosen.fraction for chosen in sets], jnp.float32)[state.chosen]
        report = Prediction(
            correlation=state.correlation[state.chosen],
            kappa=state.kappa[state.chosen],
            kappa_drift=state.kappa_drift[state.chosen],
            fraction=fraction,
            trust=trust,
            radius=whole_network().radius,
        )
        return 1 + trust * (w - 1), state, report

    def _due(self, step: jax.Array) -> jax.Array:
        power_of_two = (step & (step - 1)) == 0
        return power_of_two | (step % self.calibrate_every == 0)

    def _trust(self, state: TailState) -> jax.Array:
        share = (state.correlation[state.chosen] - self.poor) / (self.good - self.poor)
        return jnp.clip(share, 0.0, 1.0)

    def _calibrated(
        self,
        context: Context,
        state: TailState,
        s0: jax.Array,
        n: jax.Array,
        predicted: list[tuple[jax.Array, jax.Array]],
    ) -> TailState:
        samples = context.model.samples
        share = jnp.where(context.step == 0, 0.0, self.memory)

        def averaged(old: jax.Array, new: list[jax.Array]) -> jax.Array:
            fresh = jnp.stack(new).astype(old.dtype)
            mixed = share * old[: fresh.size] + (1 - share) * fresh
            return jnp.zeros_like(old).at[: fresh.size].set(mixed.astype(old.dtype))

        def slope(y: jax.Array, x: jax.Array) -> jax.Array:
            ratio = samples.mean(x * y) / jnp.maximum(samples.mean(x * x), TINY)
            return jnp.clip(ratio, 0.0, self.most)

        kappa = averaged(state.kappa, [slope(n, n_set) for _, n_set in predicted])
        drift = averaged(state.kappa_drift, [slope(s0, s_set) for s_set, _ in predicted])
        measured = [correlation(n, n_set, samples) for _, n_set in predicted]
        correlations = averaged(state.correlation, measured)
        live = correlations[: len(predicted)]
        chosen = jnp.where(
            (live >= self.good).any(), jnp.argmax(live >= self.good), jnp.argmax(live)
        )
        return TailState(kappa, drift, correlations, chosen.astype(jnp.int32))


def _influence(context: Context, chosen: PlayerSet) -> tuple[jax.Array, jax.Array]:
    """s0 and n of a set of players; the base sees zeros for the gradients of all others."""
    q, push = context.model.part(chosen.select)
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.zeros_like, context.base.params))
    for position, leaf in zip(chosen.leaves, q, strict=True):
        leaves[position] = leaf
    s0, n = influence(context.base, jax.tree.unflatten(structure, leaves), push, chosen.select)
    wide = context.model.ones.dtype
    return s0.astype(wide), n.astype(wide)


def correlation(a: jax.Array, b: jax.Array, samples: Samples) -> jax.Array:
    """Pearson's correlation over all samples; 1 for a single sample, 0 if one of them is constant."""
    if samples.axis_name is None and samples.local == 1:
        return jnp.ones((), a.dtype)
    a, b = a - samples.mean(a), b - samples.mean(b)
    covariance = samples.mean(a * b)
    size = jnp.sqrt(samples.mean(a * a)) * jnp.sqrt(samples.mean(b * b))
    return jnp.where(size > 0, covariance / jnp.where(size > 0, size, 1.0), 0.0)
