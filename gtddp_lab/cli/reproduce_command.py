"""The command ``gtddp reproduce``."""

from gtddp_lab.cli.cli_errors import RunError, UsageError
from gtddp_lab.cli.options import ReproduceOptions
from gtddp_lab.core.bounds import check_integer
from gtddp_lab.studies.section import StudyOptions
from gtddp_lab.studies.studies import STUDIES
from gtddp_lab.studies.study_report import run_studies
from gtddp_lab.training.settings import MOST_SEEDS


def reproduce_studies(options: ReproduceOptions) -> None:
    """Runs studies and prints the path of their report.

    Raises:
        UsageError: If a data set is not available, or a number is out of range.
        RunError: If the report cannot be written.
    """
    try:
        check_integer("--seeds", options.seeds, 2, MOST_SEEDS)  # one seed has no interval
    except ValueError as error:
        raise UsageError(str(error)) from error
    study_options = StudyOptions(
        out=options.out,
        seeds=options.seeds,
        quick=options.quick,
        datasets=options.datasets,
        data_dir=options.data_dir,
        say=lambda line: print(line, flush=True),
    )
    try:
        print(run_studies(options.studies or tuple(STUDIES), study_options))
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise RunError(f"cannot write {options.out}: {error.strerror}.") from error
