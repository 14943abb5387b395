"""From options to what is run."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gtddp_cli.errors import UsageError
from gtddp_cli.options import Train
from gtddp_jax.training import data
from gtddp_jax.training.checkpoints import check_kept
from gtddp_jax.training.experiment import Experiment, build_trainers, default_learning_rate
from gtddp_jax.training.placement import ONE_DEVICE, Placement
from gtddp_jax.training.recipes import recipe
from gtddp_jax.training.runner import Plan
from gtddp_jax.training.settings import Settings
from gtddp_jax.training.trainer import Trainer

BASE = "none"
"""The game of the base optimizer, which comes first."""

OWN_OPTIONS = {
    "sequential": ("rollout", "terminal", "max_shift", "own_curvature"),
    "implicit": ("weights",),
}
"""Options that only one game reads."""

PROFILED_STEPS = (10, 20)
"""Between which steps ``--profile`` takes its trace: the first ones warm up."""


class Setup(NamedTuple):
    """What a command line comes to.

    Attributes:
        options: The options, nothing left to defaults.
        experiment: What is compared.
        plan: What is done when.
        trainers: What trains.
    """

    options: Train
    experiment: Experiment
    plan: Plan
    trainers: tuple[Trainer, ...]


def set_up(options: Train, placement: Placement = ONE_DEVICE) -> Setup:
    """Checks the options, loads the data and builds what trains.

    Raises:
        UsageError: If an option's value cannot be used; nothing has been written then.
    """
    try:
        resolved = resolve(options)
        experiment = experiment_of(resolved)
        check_kept(options.keep, options.keep_best)
        plan = Plan(
            experiment.epochs,
            options.log_every,
            options.checkpoint_every,
            PROFILED_STEPS if options.profile else None,
            options.watch,
        )
        dataset = data.load(experiment.dataset, options.data_dir)
        return Setup(resolved, experiment, plan, build_trainers(experiment, dataset, placement))
    except ValueError as error:
        raise UsageError(str(error)) from error


def resolve(options: Train) -> Train:
    """The options with the data set's and the optimizer's defaults put in."""
    usual = recipe(options.dataset)
    rate = options.learning_rate
    return replace(
        options,
        network=usual.network if options.network is None else options.network,
        epochs=usual.epochs if options.epochs is None else options.epochs,
        batch_size=usual.batch_size if options.batch_size is None else options.batch_size,
        augmentation=options.augmentation or usual.augmentation,
        learning_rate=default_learning_rate(options.optimizer) if rate is None else rate,
    )


def experiment_of(options: Train) -> Experiment:
    """The experiment that resolved options describe.

    Raises:
        UsageError: If options exclude each other or would do nothing.
        ValueError: If a value is out of range.
    """
    assert options.network is not None and options.augmentation is not None
    assert options.epochs is not None and options.batch_size is not None
    assert options.learning_rate is not None
    return Experiment(
        dataset=options.dataset,
        network=options.network,
        optimizer=options.optimizer,
        games=_games(options),
        settings=Settings(
            learning_rate=options.learning_rate,
            schedule=options.schedule,
            weight_decay=options.weight_decay,
            rollout=options.rollout,
            terminal=options.terminal,
            max_shift=options.max_shift,
            own_curvature=options.own_curvature,
            weights=options.weights,
        ),
        epochs=options.epochs,
        batch_size=options.batch_size,
        seeds=_seeds(options),
        augmentation=options.augmentation,
        normalise=recipe(options.dataset).normalise,
        vmap_seeds=options.vmap_seeds,
    )


def _seeds(options: Train) -> tuple[int, ...]:
    if not options.seed_list:
        if options.seeds < 1:
            raise UsageError(f"--seeds is the number of seeds, at least 1, got {options.seeds}.")
        return tuple(range(options.seeds))
    if options.seeds != Train.seeds:
        raise UsageError("--seeds (how many) and --seed-list (which) exclude each other.")
    return options.seed_list


def _games(options: Train) -> tuple[str, ...]:
    """The games to be run, the base optimizer's first; refuses options that would do nothing."""
    games = () if options.base_only else options.game
    if options.base_only and options.game != Train.game:
        raise UsageError("--base-only and --game exclude each other.")
    if not options.base_only and (not games or len(set(games)) < len(games)):
        raise UsageError(f"--game needs one or more different ones of {', '.join(OWN_OPTIONS)}.")
    for game, names in OWN_OPTIONS.items():
        for name in names:
            if game not in games and getattr(options, name) != getattr(Train, name):
                option = name.replace("_", "-")
                raise UsageError(f"--{option} belongs to --game {game}, which is not run.")
    return (BASE, *games)


def check_resumed(before: Experiment, options: Train, path: Path) -> None:
    """Checks that what a run is to go on with is what it was.

    Raises:
        UsageError: If the run would not become what it would have been.
    """
    epochs = options.epochs
    if epochs is not None and epochs < before.epochs:
        raise UsageError(f"--epochs may be raised with --resume: {path} has {before.epochs}.")
    if epochs != before.epochs and options.schedule != "constant":
        raise UsageError(
            f"--epochs cannot change with --resume under --schedule {options.schedule}, which "
            f"spans the whole run of {before.epochs} epochs."
        )
