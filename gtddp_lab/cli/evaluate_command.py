"""The command ``gtddp eval``."""

from dataclasses import replace

from rich import box
from rich.console import Console
from rich.table import Table

from gtddp_lab.cli.cli_errors import RunError, UsageError
from gtddp_lab.cli.options import EvalOptions
from gtddp_lab.cli.parse import read_train_options
from gtddp_lab.cli.setup import TrainSetup, set_up_training
from gtddp_lab.core.printing import loss_text
from gtddp_lab.training.checkpoints import CheckpointError, Checkpoints
from gtddp_lab.training.records import TrainingUnit
from gtddp_lab.training.run_folder import RunFolder, RunFolderError, existing_folder


def evaluate_run(options: EvalOptions) -> None:
    """Scores every method and seed of a run and prints a table.

    Raises:
        UsageError: If the folder is not that of a run.
        RunError: If a checkpoint cannot be read, or there is none.
    """
    try:
        folder = existing_folder(options.run)
    except RunFolderError as error:
        raise UsageError(str(error)) from error
    train_options = read_train_options(folder.config_file)
    if options.data_dir is not None:
        train_options = replace(train_options, data_dir=options.data_dir)
    setup = set_up_training(train_options)  # without processes: one device suffices to score
    try:
        table = _score_table(setup, folder, options.checkpoint)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    if not table.row_count:
        raise RunError(f"{folder.path} has no checkpoint yet.")
    Console().print(table)


def _score_table(setup: TrainSetup, folder: RunFolder, which: str) -> Table:
    table = Table(title=f"{setup.experiment.title}, {which} checkpoints", box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    for heading in ("seed", "step", "train loss", "validation loss", "validation %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for trainer in setup.trainers:
        for seeds in setup.experiment.seed_groups:
            checkpoint_folder = folder.checkpoint_folder(TrainingUnit(trainer.method.name, seeds))
            if not checkpoint_folder.is_dir():
                continue  # an interrupted run has not started this unit
            with Checkpoints(checkpoint_folder) as checkpoints:
                step = checkpoints.best_step if which == "best" else None
                saved = checkpoints.restore(trainer.start(seeds), step)
            if saved is None:
                continue
            # A unit of several seeds has one score per seed.
            scores = zip(
                seeds,
                trainer.score_train(saved.state),
                trainer.score_validation(saved.state),
                strict=True,
            )
            for seed, on_train, on_validation in scores:
                table.add_row(
                    trainer.method.label,
                    str(seed),
                    str(saved.step),
                    loss_text(on_train.loss),
                    loss_text(on_validation.loss),
                    f"{100 * on_validation.accuracy:.2f}",
                )
    return table
