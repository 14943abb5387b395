"""Inputs for messages that no other test tells from their neighbours; see `errors.py`."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from gtddp_cli.errors import UsageError
from gtddp_cli.options import Plot
from gtddp_jax.training import clock, distributed, files, methods, results, run_folder, tables
from gtddp_jax.training.data.dataset import Dataset
from gtddp_jax.training.data.raw import files as raw_files
from gtddp_jax.training.data.raw import pickles
from gtddp_jax.training.data.raw.examples import Examples
from gtddp_jax.training.settings import Settings

LOSS = optax.softmax_cross_entropy_with_integer_labels
X = jnp.ones((4, 3))
NET = gt.Network([nn.Dense(2)])
DROPPING = gt.Network([nn.Dropout(0.1), nn.Dense(2)])
UNKNOWN: Any = "x"


class Idle(nn.Module):
    """Has a parameter that nothing depends on."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        self.param("idle", nn.initializers.ones, (3,))
        return 2 * x


class Constant(nn.Module):
    """Returns a number of its own beside what it computes."""

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        return nn.Dense(2)(x), 1.0


class Dropping(nn.Module):
    """Draws random numbers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=False)(x))


class Turned(nn.Module):
    """Merges positions before samples."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(2)(x.swapaxes(0, 1).reshape(-1, x.shape[-1]))
        return x.reshape(3, -1, 2).swapaxes(0, 1)


def from_flax(module: Any, x: Any = X, **options: Any) -> gt.FlaxNetwork:
    """The module as a network."""
    return gt.from_flax(module, x, **options)


def update(net: Any) -> None:
    """A step without random keys."""
    params = net.init(jax.random.key(0), X)
    tx: Any = gt.sgd(net, LOSS, 0.1)
    tx.update(None, tx.init(params), params, batch=(X, jnp.arange(4) % 2))


def dataset(images: Any) -> Dataset:
    """A data set of two images."""
    labels = np.zeros(2, np.int32)
    return Dataset("set", images, labels, images, labels, 2)


def member(size: int) -> None:
    """A member of an archive that claims so many bytes."""
    found = tarfile.TarInfo("images")
    found.size = size
    raw_files._safe_name(Path("archive"), found)


def in_folder(use: Callable[[Path], Any]) -> Callable[[], Any]:
    """A function of an empty folder."""

    def run() -> None:
        with TemporaryDirectory() as folder:
            use(Path(folder))

    return run


def read_whole(folder: Path) -> None:
    """Reads more than is allowed."""
    (folder / "file").write_text("12345")
    files.read_whole(folder / "file", 4)


def unpacked(folder: Path) -> None:
    """A stream that gives more than any data set has."""
    limited = raw_files._Limited(io.BytesIO(b"12"), folder)
    limited._left = 1
    limited.read(2)


def locked(folder: Path) -> None:
    """A run in a folder that is none."""
    with run_folder.RunFolder(folder / "absent").locked():
        pass


def new_folder(folder: Path) -> None:
    """A run below a file."""
    (folder / "file").touch()
    run_folder.new_folder(folder / "file" / "runs", "run")


def divided() -> None:
    """Three samples on two devices."""
    mesh = jax.sharding.AbstractMesh((2,), ("data",))
    distributed._put(np.ones(3), distributed.spread(mesh))  # type: ignore[arg-type]


def plot_nothing() -> None:
    """The command without a run."""
    from gtddp_cli.plot import plot

    plot(Plot(runs=()))


def unknown_option() -> None:
    """The command with an option that it does not have."""
    from gtddp_cli.parse import parse

    parse(["train", "--epoch", "3"])


PROVOKED: dict[tuple[str, str], Callable[[], Any]] = {
    ("flax_models/axes.py", "from_flax: a reshape"): lambda: from_flax(
        Turned(), jnp.ones((4, 3, 2))
    ),
    ("flax_models/grouping.py", "from_flax(unsupported='error')"): lambda: from_flax(
        nn.RNN(nn.GRUCell(2)), X[:, :, None], unsupported="error"
    ),
    ("flax_models/models.py", "params: …"): lambda: from_flax(nn.Dense(2)).split(
        {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
    ),
    ("flax_models/network.py", "from_flax: invalid"): lambda: from_flax(
        nn.Dense(2), unsupported="x"
    ),
    ("flax_models/network.py", "rngs is missing"): lambda: update(from_flax(Dropping())),
    ("flax_models/reading.py", "from_flax: the outputs do"): lambda: from_flax(Idle()),
    ("flax_models/reading.py", "from_flax: an output of the"): lambda: from_flax(Constant()),
    ("game/sequential.py", "Invalid rollout"): lambda: gt.sgd(NET, LOSS, 0.1, rollout="x"),
    ("kronecker/checks.py", "…: invalid"): lambda: gt.curvature.kfac(0.1, positions="all"),
    ("network/lowering.py", "…: at=…"): lambda: gt.Network([gt.Residual(nn.Dense(3), at=3)]),
    ("network/modes.py", "this stage depends"): lambda: DROPPING.stages[0](
        DROPPING.init(jax.random.key(0), X), (X,)
    ),
    ("network/network.py", "rngs is missing"): lambda: update(DROPPING),
    ("reference/collapsed.py", "Invalid terminal"): lambda: gt.reference.collapsed_step(
        (), {}, X, jnp.sum, UNKNOWN, terminal="x"
    ),
    ("reference/dense.py", "Invalid coupling"): lambda: gt.reference.ddp_step(
        (), {}, X, jnp.sum, UNKNOWN, UNKNOWN, coupling="x"
    ),
    ("weights/newton.py", "Invalid form"): lambda: gt.weights.newton(form="x"),
    ("terminal/base.py", "loss(outputs, targets) returned …; real"): (
        lambda: gt.terminal.line().expand(lambda outputs: outputs.sum(-1).astype(int), X)
    ),
    ("training/clock.py", "Invalid part"): lambda: clock.Clock().add("adam", "x", 1.0),
    ("data/dataset.py", "…: … images must have"): lambda: dataset(np.zeros((2, 1), np.float32)),
    ("data/dataset.py", "…: … images must be"): lambda: dataset(np.zeros((2, 1, 1, 1))),
    ("data/dataset.py", "…: … images must lie"): lambda: dataset(
        np.full((2, 1, 1, 1), 2, np.float32)
    ),
    ("raw/examples.py", "…: images"): lambda: Examples(np.ones((2, 3, 3, 1)), {}).checked(
        "file", (4, 4, 1), {}
    ),
    ("raw/files.py", "…: refused, because … claims"): lambda: member(2**50),
    ("raw/files.py", "…: refused, because it unpacks"): in_folder(unpacked),
    ("raw/pickles.py", "refused, because it asks for ….…"): lambda: pickles._Unpickler(
        io.BytesIO(pickle.dumps(TemporaryDirectory, 2))
    ).load(),
    ("raw/pickles.py", "refused, because it refers"): lambda: pickles._Unpickler(
        io.BytesIO(b"\x80\x02K\x01Q.")
    ).load(),
    ("training/distributed.py", "an axis of"): divided,
    ("training/files.py", "it is larger"): in_folder(read_whole),
    ("training/files.py", "it is nested"): lambda: files.parse_json(100_000 * "["),
    ("training/methods.py", "The implicit game"): lambda: methods.method("kfac", "implicit"),
    ("training/results.py", "Invalid status"): lambda: results.document(
        UNKNOWN, [], {}, status="x"
    ),
    ("training/run_folder.py", "cannot write to …: …."): in_folder(locked),
    ("training/run_folder.py", "cannot write to …: …"): in_folder(new_folder),
    ("training/settings.py", "Invalid rollout"): lambda: Settings(0.1, rollout="x"),
    ("training/tables.py", "Invalid …"): lambda: tables.look_up({"a": 1}, "x", "letter"),
    ("gtddp_cli/parse.py", "… See gtddp"): unknown_option,
    ("gtddp_cli/plot.py", "plot needs"): plot_nothing,
}
"""By the end of the module's path and the beginning of the message."""

FILES = "tests/training/test_messages.py::"
ELSEWHERE = {
    ("raw/cifar.py", "…: its entry 'data'"): f"{FILES}test_entries_of_cifar",
    ("raw/files.py", "…: holds"): f"{FILES}test_an_archive_with_a_file_twice",
    ("raw/files.py", "…: cannot be read"): f"{FILES}test_reading_fails_in_its_own_words",
    ("raw/pickles.py", "refused, because it asks for memory"): (
        "tests/training/test_raw.py::test_hostile_pickles"
    ),
    ("raw/svhn.py", "…: refused, because it claims"): (
        f"{FILES}test_matlab_files_with_other_numbers"
    ),
    ("gtddp_cli/train.py", "cannot write to"): f"{FILES}test_a_disk_that_is_full",
    ("data/store.py", "cannot write to"): f"{FILES}test_places_that_cannot_be_written_or_read",
    ("report/sources.py", "… cannot be read"): (
        f"{FILES}test_places_that_cannot_be_written_or_read"
    ),
}
"""Tests of messages whose words alone do not tell them from others; by module and beginning."""

ERRORS = (ValueError, UsageError, pickle.UnpicklingError, run_folder.RunFolderError)
"""What they raise; network and data errors are kinds of `ValueError`."""
