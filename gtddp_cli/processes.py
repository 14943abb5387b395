"""The processes and devices that a run is spread over."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import jax

from gtddp_cli.errors import UsageError
from gtddp_cli.options import Train
from gtddp_jax.training import distributed, peers
from gtddp_jax.training.placement import ONE_DEVICE, Placement


@dataclass(frozen=True)
class Team:
    """What a process knows of the others.

    Attributes:
        placement: Where the run's arrays live.
        leads: Whether it is the one that shows the progress and writes.
        beat: To be called at every sign of progress.
    """

    placement: Placement
    leads: bool
    beat: Callable[[], None]

    def agreed(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """A function that says whether ``stop`` holds in any process; all ask at the same steps."""

        def ask() -> bool:
            self.beat()
            return distributed.any_process(stop())

        return ask


@contextmanager
def team(options: Train) -> Iterator[Team]:
    """Joins the other processes, if there are any, for the length of the run.

    Raises:
        UsageError: If they or the devices cannot be used as asked.
    """
    try:
        placement = _placement(options)
    except distributed.DistributedError as error:
        raise UsageError(str(error)) from error
    with peers.session(options.patience) as beat:
        yield Team(placement, jax.process_index() == 0, beat)


def _placement(options: Train) -> Placement:
    where = (options.coordinator, options.num_processes, options.process_id)
    if not options.distributed and where == (None, None, None):
        if options.devices is None:
            return ONE_DEVICE
        return Placement(distributed.data_mesh(options.devices))
    if not options.patience > 0:
        raise UsageError(f"--patience must be positive, got {options.patience:g}.")
    distributed.initialise(distributed.Coordinates(*where), options.patience)
    return Placement(distributed.data_mesh(options.devices))


def anywhere(options: Train) -> Train:
    """The options without where the run takes place, which may change when it goes on."""
    return replace(
        options,
        devices=None,
        distributed=False,
        coordinator=None,
        num_processes=None,
        process_id=None,
    )
