"""What can be said on the command line.

Names are spelt out here, not read from the library's tables, because those come with jax; a test
keeps the two equal. Numbers are checked by the library's own classes, which use them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

DatasetName = Literal["digits", "mnist", "fashion_mnist", "svhn_cropped", "cifar10", "cifar100"]
OptimizerName = Literal["sgd", "rmsprop", "adam", "kfac", "ekfac"]
GameName = Literal["sequential", "implicit"]
WeightsName = Literal["tail", "product", "trial", "newton"]
RolloutName = Literal["linear", "nonlinear"]
TerminalName = Literal["line", "projected", "gradient"]


@dataclass(frozen=True)
class Train:
    """Train a small residual network with a base optimizer and with its GT-DDP forms, side by side.

    All start from the same parameters and see the same batches. A table closes the run; curves
    (PNG) and every epoch's scores (JSON) are in a new folder, which the last line names.
    Ctrl-C stops after the running epoch and keeps what there is.
    """

    dataset: DatasetName = "digits"
    """Images to learn. The digits (8x8) come with scikit-learn; see gtddp data for the others."""

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

    epochs: int = 15
    """Passes over the training images."""

    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT [INT ...]")] = (0,)
    """Seeds of initial parameters and batches; every method is trained once for each."""

    batch_size: int = 8
    """Images in a batch."""

    rollout: RolloutName = "linear"
    """Sequential game: its forward pass, predicted to first order or computed again."""

    terminal: TerminalName = "line"
    """Sequential game: the model of the loss at the network's outputs."""

    max_shift: float = 1.0
    """Sequential game: how far --terminal line may assume the outputs to move; inf for no limit."""

    weights: WeightsName = "tail"
    """Implicit game: how the samples' weights are found. Without momentum (rmsprop) tail leaves the
    base as it is."""

    out: Path = Path("runs")
    """Folder in which the run makes its own."""


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
