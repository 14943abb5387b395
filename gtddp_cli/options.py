"""What can be said on the command line.

Names are spelt out here, not read from the library's tables, because those come with jax; a test
keeps the two equal. Numbers are checked by the library's own classes, which use them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

DatasetName = Literal["digits", "mnist", "fashion_mnist", "svhn_cropped", "cifar10", "cifar100"]
NetworkName = Literal[
    "residual-conv",
    "residual-conv-stride",
    "four-blocks",
    "resnet18",
    "preact-resnet18",
    "cooperative",
    "residual-mlp",
]
AugmentationName = Literal["none", "crop", "crop-flip"]
OptimizerName = Literal["sgd", "plain_sgd", "rmsprop", "adam", "kfac", "ekfac"]
GameName = Literal["sequential", "implicit"]
WeightsName = Literal["tail", "product", "trial", "newton"]
RolloutName = Literal["linear", "nonlinear"]
TerminalName = Literal["line", "projected", "gradient"]
ScheduleName = Literal["constant", "cosine", "step"]
StudyName = Literal[
    "table2",
    "figure1",
    "figure4",
    "figure6",
    "figure6c",
    "figure7b",
    "figure8",
    "defaults",
    "rivals",
    "longer",
    "prediction",
]
CheckpointName = Literal["latest", "best"]


@dataclass(frozen=True)
class Train:
    """Train a residual network with a base optimizer and with its GT-DDP forms, side by side.

    All start from the same parameters and see the same batches. A table closes the run; curves,
    every epoch's scores (JSON), logs and checkpoints are in a new folder, which the last line
    names. Ctrl-C stops after the running steps, saves, and keeps what there is; --resume goes on.
    """

    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """YAML file with options, by name with _ for -, which the command line overrides. Every run
    leaves its own as config.yaml."""

    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with the run in this folder, from its last checkpoint, to the same result as if it had
    never stopped. --epochs may be raised (constant schedule only); what only watches may change."""

    dataset: DatasetName = "digits"
    """Images to learn. The digits (8x8) come with scikit-learn; see gtddp data for the others."""

    data_dir: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR", help_behavior_hint="(default: gtddp/data in the user's cache)"
        ),
    ] = None
    """Folder of prepared data sets."""

    network: Annotated[
        NetworkName | None, tyro.conf.arg(help_behavior_hint="(default: by data set)")
    ] = None
    """Network to train."""

    augmentation: Annotated[
        AugmentationName | None, tyro.conf.arg(help_behavior_hint="(default: by data set)")
    ] = None
    """Random changes to training images: none; moved by up to 4 pixels; that and mirrored."""

    optimizer: OptimizerName = "adam"
    """Base optimizer, in optax's form; SGD, KFAC and EKFAC with momentum 0.9, the latter two with
    damping 0.03 and for the sequential game only."""

    game: Annotated[tuple[GameName, ...], tyro.conf.arg(metavar="{sequential,implicit} [...]")] = (
        "sequential",
    )
    """How layers act together: one after the other, all at once, or a run of each."""

    base_only: bool = False
    """Train with the base optimizer alone."""

    learning_rate: Annotated[
        float | None,
        tyro.conf.arg(
            metavar="FLOAT", help_behavior_hint="(default: 0.001, for sgd, kfac and ekfac 0.01)"
        ),
    ] = None
    """Learning rate of all methods."""

    schedule: ScheduleName = "constant"
    """What becomes of the rate: nothing; down to 0 along half a cosine; a tenth of it after one
    half of the steps and again after three quarters."""

    weight_decay: float = 0.0
    """Factor of the running cost: half the sum of all parameters' squares. Its gradient is added to
    that of the loss."""

    epochs: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: by data set)")
    ] = None
    """Passes over the training images."""

    batch_size: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: by data set)")
    ] = None
    """Images in a batch."""

    seeds: int = 1
    """Number of seeds, which are 0, 1, ...; every method is trained once for each."""

    seed_list: Annotated[tuple[int, ...], tyro.conf.arg(metavar="[INT [INT ...]]")] = ()
    """The seeds themselves, instead of --seeds."""

    vmap_seeds: bool = False
    """Train all seeds of a method at once. Needs as many times the memory; on the CPU faster for
    dense layers, slower for convolutions."""

    rollout: RolloutName = "linear"
    """Sequential game: its forward pass, predicted to first order or computed again."""

    terminal: TerminalName = "line"
    """Sequential game: the model of the loss at the network's outputs."""

    max_shift: float = 1.0
    """Sequential game: how far --terminal line may assume the outputs to move; inf for no limit."""

    own_curvature: bool = False
    """Sequential game: a stage answers to its own step too; steadier at bold rates, and dearer."""

    weights: WeightsName = "tail"
    """Implicit game: how the samples' weights are found. Without momentum (rmsprop) tail leaves the
    base as it is."""

    checkpoint_every: Annotated[
        int | None,
        tyro.conf.arg(metavar="STEPS", help_behavior_hint="(default: every epoch)"),
    ] = None
    """Steps between two checkpoints."""

    keep: int = 2
    """Newest checkpoints kept of every method and seed."""

    keep_best: int = 1
    """Checkpoints with the highest validation accuracy kept as well."""

    log_every: Annotated[int, tyro.conf.arg(metavar="STEPS")] = 100
    """Steps between two entries of the logs."""

    watch: Annotated[int, tyro.conf.arg(metavar="IMAGES")] = 128
    """About so many training images' weights are recorded after every epoch, for gtddp report;
    0 for none. Costs a compilation for each game, then as much as a few steps."""

    profile: bool = False
    """Take a JAX trace of ten steps of the first run, into RUN/profile."""

    devices: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the first one)")
    ] = None
    """Spread every batch over so many devices."""

    distributed: bool = False
    """Train together with other processes, on all devices of all of them. Slurm, Open MPI and
    Kubernetes are asked who they are; the next three options say it instead."""

    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Address of process 0: a port that is free there and that all others can reach."""

    num_processes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of processes."""

    process_id: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of this process, from 0. Process 0 shows the progress and writes."""

    patience: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 600.0
    """So long without progress (or a first meeting) means that another process hangs."""

    out: Path = Path("runs")
    """Folder in which the run makes its own; one that all processes share."""


@dataclass(frozen=True)
class Eval:
    """Score the networks of a run again, from their checkpoints."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""

    checkpoint: CheckpointName = "latest"
    """Which checkpoint of every method and seed."""

    data_dir: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: the run's own)"),
    ] = None
    """Folder of prepared data sets."""


@dataclass(frozen=True)
class Plot:
    """Draw a run, or several beside each other: loss, accuracy, weights, feedback, differences.

    The difference between a game and its base is paired by seed; its band is the 95 % confidence
    interval of the mean.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Folders of runs."""

    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: curves in the first folder)"),
    ] = None
    """Where to draw; with the endings .png and .svg."""


@dataclass(frozen=True)
class Report:
    """Summarise a run, or several beside each other, on the terminal and as a page.

    The page is one HTML file that loads nothing: curves over seeds, base against games, the
    network's game with the feedback of every stage, weights of samples, times, configuration.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    """Folders of runs."""

    html: Annotated[
        tuple[Path, ...] | None,
        tyro.conf.arg(
            metavar="[FILE]",
            help_behavior_hint="(default: none; without FILE report.html in the first folder)",
        ),
    ] = None
    """Write the page, after the runs: RUN --html."""


@dataclass(frozen=True)
class Data:
    """Bring a data set into the form that training reads, once, and say what is in it.

    Nothing is downloaded: --from names a folder with the files that the set's authors publish.
    Debian's package dataset-fashion-mnist is found without it.
    """

    name: tyro.conf.Positional[DatasetName]
    """The data set."""

    source: Annotated[Path | None, tyro.conf.arg(name="from", metavar="FOLDER")] = None
    """Folder with the original files: idx (gzip or not), CIFAR's archives in the python or the
    binary form (or unpacked), SVHN's .mat files."""

    own: bool = False
    """The files hold other data in the same format: do not compare them with the originals."""

    data_dir: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR", help_behavior_hint="(default: gtddp/data in the user's cache)"
        ),
    ] = None
    """Folder of prepared data sets."""


@dataclass(frozen=True)
class Reproduce:
    """Repeat the paper's experiments and our own comparisons, paired by seed, into a report.

    Writes report.md, report.json and pictures (PNG, SVG). Every training run is kept in the folder,
    so that a study that is cut off goes on where it stopped. Without a name: all studies.
    """

    studies: Annotated[
        tyro.conf.Positional[tuple[StudyName, ...]], tyro.conf.arg(metavar="STUDY")
    ] = ()
    """What to repeat."""

    out: Path = Path("evidence")
    """Folder of the report and of the runs behind it."""

    datasets: tuple[DatasetName, ...] = ("digits",)
    """Data sets; those that do not come with a package are prepared by gtddp data."""

    seeds: int = 6
    """Number of seeds; twice as many on the digits."""

    quick: bool = False
    """A version that takes minutes: enough to see that everything works, not to conclude."""

    data_dir: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR", help_behavior_hint="(default: gtddp/data in the user's cache)"
        ),
    ] = None
    """Folder of prepared data sets."""


WATCHING = (
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
"""Options of `Train` that may change when a run goes on."""
