"""When factors are updated and decomposed, staggered over the stages of a network."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class RefreshSchedule:
    """Periods, in steps.

    Attributes:
        factors_every: steps between updates of the factors.
        refresh_every: steps between decompositions of a stage's factors.
        offset: the step of each period in which this stage is refreshed.
    """

    factors_every: int
    refresh_every: int
    offset: int

    @classmethod
    def for_stage(
        cls, factors_every: int, refresh_every: int, index: int, stages: int, *, stagger: bool
    ) -> "RefreshSchedule":
        """The schedule of stage `index`; `stagger` spreads the stages evenly over a period."""
        # Otherwise all decompositions would fall into the same step.
        offset = index * refresh_every // stages if stagger else 0
        return cls(factors_every, refresh_every, offset)

    def is_refresh_step(self, step_count: jax.Array) -> jax.Array:
        """Whether this step computes new eigenbases; always in the first step."""
        # The first step has no bases yet.
        return (step_count == 0) | (step_count % self.refresh_every == self.offset)

    def is_factor_step(self, step_count: jax.Array) -> jax.Array:
        """Whether this step updates the factors; always before a refresh."""
        # Bases of outdated factors would be outdated from the start.
        return (step_count % self.factors_every == 0) | self.is_refresh_step(step_count)

    @property
    def refreshes_always(self) -> bool:
        """Whether every step computes new eigenbases."""
        return self.refresh_every == 1

    @property
    def updates_always(self) -> bool:
        """Whether every step updates the factors."""
        return self.factors_every == 1 or self.refreshes_always
