"""The command ``gtddp reproduce``."""

from gtddp_cli.errors import RunError, UsageError
from gtddp_cli.options import Reproduce
from gtddp_jax.evidence.report import reproduce as write
from gtddp_jax.evidence.section import Options
from gtddp_jax.evidence.studies import STUDIES


def reproduce(options: Reproduce) -> None:
    """Runs studies and prints where the report is.

    Raises:
        UsageError: If a data set is not there, or a number out of range.
        RunError: If the report cannot be written.
    """
    if options.seeds < 2:
        raise UsageError(f"--seeds must be at least 2 for an interval, got {options.seeds}.")
    given = Options(
        out=options.out,
        seeds=options.seeds,
        quick=options.quick,
        datasets=options.datasets,
        data_dir=options.data_dir,
        say=lambda line: print(line, flush=True),
    )
    try:
        print(write(options.studies or tuple(STUDIES), given))
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise RunError(f"cannot write {options.out}: {error.strerror}.") from error
