"""Options of all commands.

The choices of an option are the names in the table that implements it, see `choices`. Numbers are
checked by the classes that use them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from gtddp_lab.cli.choices import table_names
from gtddp_lab.training.recipes import RECIPES


def _one_of(names: tuple[str, ...]) -> Any:
    """Restricts an option to the given names; tyro shows them and rejects all others."""
    # Not `Literal`: type checkers accept only names that are written out there.
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(names)}}}",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
        choices=names,
    )


BASE_GAME = "none"
"""The game of the base optimizer, which always runs and runs first."""

GAMES = tuple(
    game for game in table_names("gtddp_lab.training.methods", "GAMES") if game != BASE_GAME
)
"""The choices of ``--game``."""

DatasetName = Annotated[str, _one_of(tuple(RECIPES))]
NetworkName = Annotated[str, _one_of(table_names("gtddp_lab.networks", "NETWORKS"))]
AugmentationName = Annotated[
    str, _one_of(table_names("gtddp_lab.data.augmentation", "AUGMENTATIONS"))
]
OptimizerName = Annotated[str, _one_of(table_names("gtddp_lab.training.methods", "OPTIMIZERS"))]
NO_RIVAL = "none"
"""The choice of ``--rival`` that leaves the rival out."""

RivalName = Annotated[
    str, _one_of((NO_RIVAL, *table_names("gtddp_lab.training.methods", "OPTIMIZERS")))
]
GameName = Annotated[str, _one_of(GAMES)]
WeightingName = Annotated[str, _one_of(table_names("gtddp_jax.implicit.weighting", "WEIGHTINGS"))]
RolloutName = Annotated[str, _one_of(table_names("gtddp_jax.sequential.rollout", "ROLLOUTS"))]
TerminalName = Annotated[str, _one_of(table_names("gtddp_jax.terminal", "TERMINALS"))]
ScheduleName = Annotated[str, _one_of(table_names("gtddp_lab.training.settings", "SCHEDULES"))]
STUDY_NAMES = table_names("gtddp_lab.studies.studies", "STUDIES")
StudyName = Annotated[str, _one_of(STUDY_NAMES)]
CheckpointName = Literal["latest", "best"]


def _described(default: str, metavar: str | None = None) -> Any:
    """Describes a default that depends on other options or on the machine."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


RunFolders = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
]
DataDir = Annotated[Path | None, _described("gtddp/data in the user's cache", "DIR")]


@dataclass(frozen=True)
class TrainOptions:
    """Train a residual network with a base optimizer, a rival and GT-DDP games, for comparison.

    All methods start from the same parameters and see the same batches. The run ends with a table
    of results and a sentence that says what they show; curves, scores of every epoch (JSON), logs
    and checkpoints are written to a new folder, named in the last line. Ctrl-C stops after the
    current steps and saves; --resume continues the run.
    """

    config: Annotated[Path | None, _described("none", "FILE")] = None
    """YAML file with options, named as below with _ for -. Options on the command line take
    precedence. Every run writes its own options to config.yaml."""

    resume: Annotated[Path | None, _described("a new run", "RUN")] = None
    """Resume the run in this folder from its last checkpoint, with the same result as without the
    interruption. --epochs may be raised (constant schedule only), and options that do not affect
    the result may change."""

    dataset: DatasetName = "digits"
    """Data set. The digits (8x8) come with scikit-learn; gtddp data prepares the others."""

    data_dir: DataDir = None
    """Folder of prepared data sets."""

    network: Annotated[NetworkName | None, _described("by data set")] = None
    """Network to train."""

    augmentation: Annotated[AugmentationName | None, _described("by data set")] = None
    """Random changes of the training images: none, shifts by up to 4 pixels, or shifts and
    mirroring."""

    optimizer: Annotated[
        OptimizerName | None, _described("schedule_free; nesterov for the sequential game")
    ] = None
    """Base optimizer, from optax; KFAC, EKFAC and SOAP exist for the sequential game only, Lion and
    Muon for the implicit game only, and so do schedule_free (schedule-free AdamW) and ema_nesterov,
    which are scored at an average. SGD, Nesterov, KFAC and EKFAC use momentum 0.9, KFAC and EKFAC
    damping 0.03."""

    game: Annotated[tuple[GameName, ...], tyro.conf.arg(metavar=f"{{{','.join(GAMES)}}} [...]")] = (
        "implicit",
    )
    """How the layers act together: one after the other (sequential) or all at once (implicit). With
    several games, each one is run."""

    rival: Annotated[
        RivalName | None, _described("the base with, or without, look-ahead, if there is one")
    ] = None
    """Another base optimizer, run alone at the same learning rate. Nesterov's look-ahead does part
    of what a game does for free, so by default sgd and nesterov are rivals, and adam and nadam;
    nadam is also the rival of schedule_free."""

    base_only: bool = False
    """Train with the base optimizer only, without game and rival."""

    learning_rate: Annotated[float | None, _described("by optimizer and data set", "FLOAT")] = None
    """Learning rate of all methods."""

    schedule: ScheduleName = "cosine"
    """Learning rate schedule: constant; down to 0 along half a cosine; divided by 10 after 1/2 and
    again after 3/4 of the steps. The rate is constant for schedule_free and ema_nesterov."""

    weight_decay: float = 0.0
    """Factor of the running cost, half the squared norm of all parameters. Its gradient is added to
    the gradient of the loss."""

    epochs: Annotated[int | None, _described("by data set", "INT")] = None
    """Passes over the training images."""

    batch_size: Annotated[int | None, _described("by data set", "INT")] = None
    """Images per batch."""

    seeds: int = 3
    """Number of seeds (0, 1, ...); every method is trained once per seed."""

    seed_list: Annotated[tuple[int, ...], _described("as --seeds says", "[INT [INT ...]]")] = ()
    """The seeds themselves, instead of --seeds."""

    vmap_seeds: bool = False
    """Train all seeds of a method at once. Needs the memory of all seeds together; on the CPU
    faster for dense layers, slower for convolutions."""

    rollout: RolloutName = "linear"
    """Sequential game: how the forward pass with the new parameters is computed, predicted to first
    order (linear) or evaluated again (nonlinear)."""

    terminal: TerminalName = "exact_loss"
    """Sequential game: model of the loss at the network's outputs."""

    max_shift: float = 1.0
    """Sequential game: largest shift of the outputs that --terminal exact_loss predicts; inf for no
    limit."""

    self_response: bool = False
    """Sequential game: let a stage also respond to its own step. More stable at high learning
    rates, but more expensive."""

    weighting: WeightingName = "sketch"
    """Implicit game: how sample weights are computed, with a prediction by a random share of each
    layer's units (sketch), by the whole network (full), or for all samples together (exact)."""

    checkpoint_every: Annotated[int | None, _described("every epoch", "STEPS")] = None
    """Steps between two checkpoints."""

    keep: int = 2
    """Number of newest checkpoints to keep, per method and seed."""

    keep_best: int = 1
    """Number of checkpoints with the highest validation accuracy to keep as well."""

    log_every: Annotated[int, tyro.conf.arg(metavar="STEPS")] = 100
    """Steps between two log entries."""

    watch: Annotated[int, tyro.conf.arg(metavar="IMAGES")] = 128
    """Approximate number of training images whose sample weights are recorded after every epoch,
    for gtddp report; 0 for none. Costs one compilation per game, then as much as a few steps."""

    profile: bool = False
    """Record a JAX trace of ten steps of the first run in RUN/profile."""

    devices: Annotated[int | None, _described("the first one", "INT")] = None
    """Number of devices over which every batch is split."""

    distributed: bool = False
    """Train together with other processes, on all devices of all of them. Slurm, Open MPI and
    Kubernetes provide the addresses; elsewhere, give the next three options."""

    coordinator: Annotated[str | None, _described("from the scheduler", "HOST:PORT")] = None
    """Address of process 0: a free port on its host, reachable from all other processes."""

    num_processes: Annotated[int | None, _described("from the scheduler", "INT")] = None
    """Number of processes."""

    process_id: Annotated[int | None, _described("from the scheduler", "INT")] = None
    """Index of this process, from 0. Process 0 shows the progress and writes the files."""

    patience: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 600.0
    """Time without progress, or without all processes joining, after which another process is
    assumed to hang."""

    out: Path = Path("runs")
    """Folder in which the run creates its own folder; shared by all processes."""


@dataclass(frozen=True)
class EvalOptions:
    """Score the networks of a run again, from their checkpoints."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""

    checkpoint: CheckpointName = "latest"
    """Checkpoint to score, of every method and seed."""

    data_dir: Annotated[Path | None, _described("as in the run", "DIR")] = None
    """Folder of prepared data sets."""


@dataclass(frozen=True)
class PlotOptions:
    """Draw one or more runs: loss over epochs and over time, accuracy, differences, sample weights.

    The difference between a game and its base is paired by seed; its band is the 95 % confidence
    interval of the mean.
    """

    runs: RunFolders
    """Folders of runs."""

    out: Annotated[Path | None, _described("curves in the first folder", "FILE")] = None
    """File to write; .png and .svg are appended."""


@dataclass(frozen=True)
class ReportOptions:
    """Summarize one or more runs on the terminal and as an HTML page.

    The page is one self-contained file: curves over seeds, base against games, the network's game
    with the feedback of every stage, sample weights, times, configuration.
    """

    runs: RunFolders
    """Folders of runs."""

    html: Annotated[
        tuple[Path, ...] | None,
        _described("none; without FILE report.html in the first folder", "[FILE]"),
    ] = None
    """Write the page. Place this option after the runs: RUN --html."""


@dataclass(frozen=True)
class DataOptions:
    """Prepare a data set for training and describe it.

    Nothing is downloaded: --from names a folder with the files that the authors of the data set
    publish. The files of Debian's package dataset-fashion-mnist are found without it.
    """

    name: tyro.conf.Positional[DatasetName]
    """The data set."""

    source: Annotated[
        Path | None,
        tyro.conf.arg(
            name="from", metavar="FOLDER", help_behavior_hint="(default: that of Debian's package)"
        ),
    ] = None
    """Folder with the original files: idx (gzip or not), CIFAR archives in the Python or binary
    format (or unpacked), SVHN's .mat files."""

    own: bool = False
    """The files hold other data in the same format: do not compare them with the originals."""

    data_dir: DataDir = None
    """Folder of prepared data sets."""


@dataclass(frozen=True)
class ReproduceOptions:
    """Repeat the paper's experiments and our own comparisons, paired by seed, and write a report.

    Writes report.md, report.json and pictures (PNG, SVG). All training runs are kept in the folder,
    so an interrupted study continues where it stopped. Without a name, all studies are run.
    """

    studies: Annotated[
        tyro.conf.Positional[tuple[StudyName, ...]],
        _described("all of them", f"{{{','.join(STUDY_NAMES)}}}"),
    ] = ()
    """Studies to run."""

    out: Path = Path("evidence")
    """Folder of the report and of the runs behind it."""

    datasets: tuple[DatasetName, ...] = ("digits",)
    """Data sets; gtddp data prepares those that come with no package."""

    seeds: int = 6
    """Number of seeds; twice as many on the digits."""

    quick: bool = False
    """Run a version that takes minutes: enough to check that everything works, not to draw
    conclusions."""

    data_dir: DataDir = None
    """Folder of prepared data sets."""


CHANGEABLE_ON_RESUME = (
    "epochs",
    "data_dir",
    "checkpoint_every",
    "keep",
    "keep_best",
    "log_every",
    "watch",
    "profile",
    "devices",
    "distributed",
    "coordinator",
    "num_processes",
    "process_id",
    "patience",
    "out",
)
"""Options of `TrainOptions` that may change when a run is resumed."""
