"""The command ``gtddp eval``."""

from dataclasses import replace

from rich import box
from rich.console import Console
from rich.table import Table

from gtddp_cli.errors import RunError, UsageError
from gtddp_cli.options import Eval
from gtddp_cli.parse import read_train
from gtddp_cli.setup import Setup, set_up
from gtddp_jax.training.checkpoints import CheckpointError, Checkpoints
from gtddp_jax.training.records import Unit
from gtddp_jax.training.run_folder import RunFolder, RunFolderError, existing_folder


def evaluate(options: Eval) -> None:
    """Scores every method and seed of a run and prints a table.

    Raises:
        UsageError: If there is no such run.
        RunError: If a checkpoint cannot be read, or there is none at all.
    """
    try:
        folder = existing_folder(options.run)
    except RunFolderError as error:
        raise UsageError(str(error)) from error
    trained = read_train(folder.config)
    if options.data_dir is not None:
        trained = replace(trained, data_dir=options.data_dir)
    setup = set_up(trained)
    try:
        layout = _table(setup, folder, options.checkpoint)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    if not layout.row_count:
        raise RunError(f"{folder.path} has no checkpoint yet.")
    Console().print(layout)


def _table(setup: Setup, folder: RunFolder, which: str) -> Table:
    layout = Table(title=f"{setup.experiment.title}, {which} checkpoints", box=box.SIMPLE_HEAD)
    layout.add_column("method", no_wrap=True)
    for heading in ("seed", "step", "train loss", "validation loss", "validation %"):
        layout.add_column(heading, justify="right", no_wrap=True)
    for trainer in setup.trainers:
        for seeds in setup.experiment.groups:
            place = folder.checkpoints(Unit(trainer.method.name, seeds))
            if not place.is_dir():
                continue  # the run has not come to it
            with Checkpoints(place) as checkpoints:
                step = checkpoints.best_step if which == "best" else None
                saved = checkpoints.restore(trainer.start(seeds), step)
            if saved is None:
                continue
            train, validation = (
                score(saved.state) for score in (trainer.score_train, trainer.score_validation)
            )
            for seed, on_train, on_validation in zip(seeds, train, validation, strict=True):
                layout.add_row(
                    trainer.method.label,
                    str(seed),
                    str(saved.step),
                    f"{on_train.loss:.4f}",
                    f"{on_validation.loss:.4f}",
                    f"{100 * on_validation.accuracy:.2f}",
                )
    return layout
