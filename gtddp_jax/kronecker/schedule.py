"""When statistics are taken and bases made anew: staggered over the stages of a network."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Periods, in steps.

    Attributes:
        factors_every: between updates of the factors.
        refresh_every: between decompositions of a stage's factors.
        offset: the step within a period at which this stage's turn comes.
    """

    factors_every: int
    refresh_every: int
    offset: int

    @classmethod
    def of(
        cls, factors_every: int, refresh_every: int, index: int, stages: int, *, stagger: bool
    ) -> "Schedule":
        """The schedule of stage `index` of `stages`: turns are spread evenly over a period."""
        offset = index * refresh_every // stages if stagger else 0
        return cls(factors_every, refresh_every, offset)

    def refresh(self, count: jax.Array) -> jax.Array:
        """Whether bases are made at this step; always at the first."""
        return (count == 0) | (count % self.refresh_every == self.offset)

    def observe(self, count: jax.Array) -> jax.Array:
        """Whether factors are updated at this step; always before a refresh."""
        return (count % self.factors_every == 0) | self.refresh(count)

    @property
    def always_refresh(self) -> bool:
        """Whether every step makes bases."""
        return self.refresh_every == 1

    @property
    def always_observe(self) -> bool:
        """Whether every step updates factors."""
        return self.factors_every == 1 or self.always_refresh
