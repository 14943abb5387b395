"""The command ``gtddp plot``."""

from gtddp_lab.cli.cli_errors import RunError, UsageError
from gtddp_lab.cli.options import PlotOptions
from gtddp_lab.training import results
from gtddp_lab.training.plots import MethodCurves, curves_of, draw_curves
from gtddp_lab.training.run_folder import RunFolder, RunFolderError, check_entries


def plot_runs(options: PlotOptions) -> None:
    """Draws runs into a PNG and an SVG file.

    Raises:
        UsageError: If a run cannot be read.
        RunError: If the files cannot be written.
    """
    if not options.runs:
        raise UsageError("plot needs the folder of at least one run.")
    first, *_ = options.runs
    curves: list[MethodCurves] = []
    for path in options.runs:
        try:
            check_entries(path)
            experiment, records, _ = results.read_results(RunFolder(path).results_file)
        except (results.ResultsError, RunFolderError) as error:
            raise UsageError(str(error)) from error
        curves += curves_of(experiment, records, path.name if len(options.runs) > 1 else "")
    target = options.out or first / "curves"
    # Both formats are written, whichever suffix was given; other dots belong to the name.
    if target.suffix in (".png", ".svg"):
        target = target.with_suffix("")
    try:
        for kind in ("png", "svg"):
            file = target.with_name(f"{target.name}.{kind}")
            draw_curves(file, ", ".join(path.name for path in options.runs), curves)
            print(file)
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror}.") from error
