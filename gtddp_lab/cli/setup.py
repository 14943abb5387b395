"""Builds what a training run needs from its options."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gtddp_lab import data
from gtddp_lab.cli.cli_errors import UsageError
from gtddp_lab.cli.options import BASE_GAME, NO_RIVAL, TrainOptions
from gtddp_lab.core.bounds import check_integer
from gtddp_lab.training.checkpoints import check_keep_counts
from gtddp_lab.training.experiment import Experiment, build_trainers, default_learning_rate
from gtddp_lab.training.methods import OPTIMIZERS, RIVALS, supports_game
from gtddp_lab.training.placement import ONE_DEVICE, Placement
from gtddp_lab.training.recipes import recipe_for
from gtddp_lab.training.runner import RunPlan
from gtddp_lab.training.settings import MOST_SEEDS, TrainSettings
from gtddp_lab.training.trainer import Trainer

GAME_OPTIONS = {
    "sequential": ("rollout", "terminal", "max_shift", "self_response"),
    "implicit": ("weighting",),
}
"""Options that only one game uses."""

PROFILED_STEPS = (10, 20)
"""First and last step of the trace that ``--profile`` records; the steps before warm up."""


class TrainSetup(NamedTuple):
    """Everything that a run of ``gtddp train`` needs.

    Attributes:
        options: The options, with all defaults filled in.
        experiment: The comparison.
        plan: When to log, score and save.
        trainers: One trainer per method.
    """

    options: TrainOptions
    experiment: Experiment
    plan: RunPlan
    trainers: tuple[Trainer, ...]


def set_up_training(options: TrainOptions, placement: Placement = ONE_DEVICE) -> TrainSetup:
    """Checks the options, loads the data and builds the trainers; writes nothing.

    Raises:
        UsageError: If the value of an option cannot be used.
    """
    try:
        resolved = fill_in_defaults(options)
        experiment = build_experiment(resolved)
        check_keep_counts(options.keep, options.keep_best)
        plan = RunPlan(
            epochs=experiment.epochs,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
            profile=PROFILED_STEPS if options.profile else None,
            watch=options.watch,
        )
        dataset = data.load_dataset(experiment.dataset, options.data_dir)
        trainers = build_trainers(experiment, dataset, placement)
        return TrainSetup(resolved, experiment, plan, trainers)
    except ValueError as error:
        raise UsageError(str(error)) from error


def fill_in_defaults(options: TrainOptions) -> TrainOptions:
    """Fills in the defaults that depend on the data set and the optimizer."""
    recipe = recipe_for(options.dataset)
    rate = options.learning_rate
    optimizer = options.optimizer or _default_optimizer(options)
    return replace(
        options,
        network=recipe.network if options.network is None else options.network,
        epochs=recipe.epochs if options.epochs is None else options.epochs,
        batch_size=recipe.batch_size if options.batch_size is None else options.batch_size,
        augmentation=options.augmentation or recipe.augmentation,
        optimizer=optimizer,
        learning_rate=default_learning_rate(options.dataset, optimizer) if rate is None else rate,
        rival=options.rival or (NO_RIVAL if options.base_only else RIVALS.get(optimizer, NO_RIVAL)),
    )


def _default_optimizer(options: TrainOptions) -> str:
    games = (BASE_GAME,) if options.base_only else options.game
    entry = OPTIMIZERS["schedule_free"]
    return "schedule_free" if all(supports_game(entry, game) for game in games) else "nesterov"


def build_experiment(options: TrainOptions) -> Experiment:
    """Builds the experiment from options with all defaults filled in.

    Raises:
        UsageError: If options exclude each other or would have no effect.
        ValueError: If a value is out of range.
    """
    assert options.network is not None and options.augmentation is not None
    assert options.optimizer is not None
    assert options.epochs is not None and options.batch_size is not None
    assert options.learning_rate is not None
    return Experiment(
        dataset=options.dataset,
        network=options.network,
        optimizer=options.optimizer,
        games=_choose_games(options),
        settings=TrainSettings(
            learning_rate=options.learning_rate,
            schedule=options.schedule,
            weight_decay=options.weight_decay,
            rollout=options.rollout,
            terminal=options.terminal,
            max_shift=options.max_shift,
            self_response=options.self_response,
            weighting=options.weighting,
        ),
        epochs=options.epochs,
        batch_size=options.batch_size,
        seeds=_choose_seeds(options),
        augmentation=options.augmentation,
        normalise=recipe_for(options.dataset).normalise,
        vmap_seeds=options.vmap_seeds,
        rival=None if options.rival == NO_RIVAL else options.rival,
    )


def _choose_seeds(options: TrainOptions) -> tuple[int, ...]:
    if not options.seed_list:
        check_integer("--seeds", options.seeds, 1, MOST_SEEDS)  # before they are listed
        return tuple(range(options.seeds))
    if options.seeds != TrainOptions.seeds:
        raise UsageError("--seeds (how many) and --seed-list (which) exclude each other.")
    return options.seed_list


def _choose_games(options: TrainOptions) -> tuple[str, ...]:
    """The games to run, the base first; rejects options that would have no effect."""
    # tyro does not tell whether an option was given, so a changed value stands for "given".
    games = () if options.base_only else options.game
    if options.base_only and options.game != TrainOptions.game:
        raise UsageError("--base-only and --game exclude each other.")
    if options.base_only and options.rival != NO_RIVAL:
        raise UsageError("--base-only and --rival exclude each other.")
    if not options.base_only and (not games or len(set(games)) < len(games)):
        raise UsageError(f"--game needs one or more different names of {', '.join(GAME_OPTIONS)}.")
    for game, names in GAME_OPTIONS.items():
        for name in names:
            if game not in games and getattr(options, name) != getattr(TrainOptions, name):
                option = name.replace("_", "-")
                raise UsageError(f"--{option} belongs to --game {game}, which is not run.")
    return (BASE_GAME, *games)


def check_resumed_epochs(before: Experiment, options: TrainOptions, path: Path) -> None:
    """Checks that a resumed run ends like an uninterrupted one.

    Raises:
        UsageError: If the number of epochs would change the result.
    """
    epochs = options.epochs
    if epochs is not None and epochs < before.epochs:
        raise UsageError(f"--epochs can only be raised with --resume: {path} has {before.epochs}.")
    # A schedule ends with the run: with more epochs, all rates would have been different.
    if epochs != before.epochs and options.schedule != "constant":
        raise UsageError(
            f"--epochs cannot change with --resume under --schedule {options.schedule}, which "
            f"spans the whole run of {before.epochs} epochs."
        )
