"""The processes and devices over which a run is distributed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import jax

from gtddp_lab.cli.cli_errors import UsageError
from gtddp_lab.cli.options import TrainOptions
from gtddp_lab.core import distributed, peers
from gtddp_lab.core.bounds import check_real
from gtddp_lab.training.placement import ONE_DEVICE, Placement

LONGEST_PATIENCE = 1e6
"""Seconds, twelve days; clocks of threads end after some years."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, as seen by one of them.

    Attributes:
        placement: Where the arrays of the run live.
        leads: Whether this process shows the progress and writes the files.
        report_progress: To be called at every sign of progress.
    """

    placement: Placement
    leads: bool
    report_progress: Callable[[], None]

    def any_stops(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Returns a function that tells whether ``stop()`` holds in any process.

        All processes must call it after the same steps.
        """

        def stops() -> bool:
            self.report_progress()
            # All processes must take the same number of steps, or their collectives deadlock.
            return distributed.any_process(stop())

        return stops


@contextmanager
def join_process_group(options: TrainOptions) -> Iterator[ProcessGroup]:
    """Joins the other processes of the run, if there are any.

    Raises:
        UsageError: If processes or devices cannot be used as requested.
    """
    try:
        placement = _choose_placement(options)
    except distributed.DistributedError as error:
        raise UsageError(str(error)) from error
    with peers.peer_session(options.patience) as report_progress:
        yield ProcessGroup(placement, jax.process_index() == 0, report_progress)


def _choose_placement(options: TrainOptions) -> Placement:
    coordinates = (options.coordinator, options.num_processes, options.process_id)
    # Any of the four options makes this a run of several processes.
    if not options.distributed and coordinates == (None, None, None):
        if options.devices is None:
            return ONE_DEVICE
        return Placement(distributed.data_mesh(options.devices))
    try:
        check_real("--patience", options.patience, 1e-3, LONGEST_PATIENCE)
    except ValueError as error:
        raise UsageError(str(error)) from error
    distributed.join_processes(distributed.ProcessCoordinates(*coordinates), options.patience)
    return Placement(distributed.data_mesh(options.devices))


def without_placement(options: TrainOptions) -> TrainOptions:
    """The options without processes and devices, which may change when a run is resumed."""
    return replace(
        options,
        devices=None,
        distributed=False,
        coordinator=None,
        num_processes=None,
        process_id=None,
    )
