"""The command ``gtddp plot``."""

from gtddp_cli.errors import RunError, UsageError
from gtddp_cli.options import Plot
from gtddp_jax.training import results
from gtddp_jax.training.plots import Curves, curves_of, draw
from gtddp_jax.training.run_folder import RunFolder, RunFolderError, check_links


def plot(options: Plot) -> None:
    """Draws runs into a PNG and an SVG file.

    Raises:
        UsageError: If a run cannot be read.
        RunError: If the files cannot be written.
    """
    if not options.runs:
        raise UsageError("plot needs the folder of at least one run.")
    first, *_ = options.runs
    curves: list[Curves] = []
    for path in options.runs:
        try:
            check_links(path)
            experiment, records, _ = results.read(RunFolder(path).results)
        except (results.ResultsError, RunFolderError) as error:
            raise UsageError(str(error)) from error
        curves += curves_of(experiment, records, path.name if len(options.runs) > 1 else "")
    target = options.out or first / "curves"
    if target.suffix in (".png", ".svg"):
        target = target.with_suffix("")
    try:
        for kind in ("png", "svg"):
            file = target.with_name(f"{target.name}.{kind}")
            draw(file, ", ".join(path.name for path in options.runs), curves)
            print(file)
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror}.") from error
