"""When factors are updated and decomposed, staggered over the stages of a network.

With S stages no step decomposes the factors of more than `ceil(S / refresh_every)` of them, or
updates those of more than `ceil(S / factors_every)` if `factors_every` divides `refresh_every`. The
first step is an exception: it does all.
"""

import dataclasses

from gtddp_jax.core.types import Count, Flag


@dataclasses.dataclass(frozen=True)
class RefreshSchedule:
    """Periods, in steps.

    Attributes:
        factors_every: steps between updates of the factors.
        refresh_every: steps between decompositions of a stage's factors.
        factor_offset: the first step, after step 0, in which this stage's factors are updated.
        refresh_offset: the step of each period in which this stage is refreshed.
    """

    factors_every: int
    refresh_every: int
    factor_offset: int
    refresh_offset: int

    @classmethod
    def for_stage(
        cls, factors_every: int, refresh_every: int, index: int, stages: int, *, stagger: bool
    ) -> "RefreshSchedule":
        """The schedule of stage `index`; with `stagger` the stages take turns in a period."""
        if not stagger:
            return cls(factors_every, refresh_every, 0, 0)
        # Otherwise the updates, or the decompositions, of all stages would fall into one step.
        factor_offset = index * factors_every // stages
        refresh_offset = index * refresh_every // stages
        if refresh_every % factors_every == 0:
            # Of the updates in a period neighboring stages take different ones for the refresh,
            # which then needs no update of its own.
            updates = refresh_every // factors_every
            refresh_offset = factor_offset + factors_every * (index % updates)
        return cls(factors_every, refresh_every, factor_offset, refresh_offset)

    def is_refresh_step(self, step_count: Count) -> Flag:
        """Whether this step computes new eigenbases; always in the first step."""
        # The first step has no bases yet.
        return (step_count == 0) | (step_count % self.refresh_every == self.refresh_offset)

    def is_factor_step(self, step_count: Count) -> Flag:
        """Whether this step updates the factors; always before a refresh."""
        due = step_count % self.factors_every == self.factor_offset
        # Bases of outdated factors would be outdated from the start.
        return due | self.is_refresh_step(step_count)

    @property
    def refreshes_always(self) -> bool:
        """Whether every step computes new eigenbases."""
        return self.refresh_every == 1

    @property
    def updates_always(self) -> bool:
        """Whether every step updates the factors."""
        return self.factors_every == 1 or self.refreshes_always
