"""Inputs for messages that no other test identifies; see `errors.py`."""

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
from gtddp_jax.core.loss_pairing import check_loss_pairing
from gtddp_jax.network.errors import refuse_complex_numbers
from gtddp_lab.cli.cli_errors import UsageError
from gtddp_lab.cli.options import PlotOptions
from gtddp_lab.core import distributed, files, look_up
from gtddp_lab.data.dataset import Dataset
from gtddp_lab.data.raw import original_files as raw_files
from gtddp_lab.data.raw import pickles
from gtddp_lab.data.raw.examples import Examples
from gtddp_lab.training import clock, methods, results, run_folder

LOSS = optax.softmax_cross_entropy_with_integer_labels
X = jnp.ones((4, 3))
NET = gt.Network([nn.Dense(2)])
DROPPING = gt.Network([nn.Dropout(0.1), nn.Dense(2)])
UNKNOWN: Any = "x"


class Idle(nn.Module):
    """Has a parameter that does not affect the output."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        self.param("idle", nn.initializers.ones, (3,))
        return 2 * x


class Constant(nn.Module):
    """Returns a constant besides its result."""

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


class Balanced(nn.Module):
    """Returns a loss of the whole batch besides its result."""

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        outputs = nn.Dense(2)(x)
        return outputs, jnp.square(outputs).mean()


@jax.custom_vjp
def opaque_square(outputs: jax.Array) -> jax.Array:
    """A square whose gradient is computed outside of JAX."""
    return jnp.square(outputs).sum(-1)


def _opaque_gradient(outputs: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    shape = jax.ShapeDtypeStruct(outputs.shape, outputs.dtype)
    return (
        jax.pure_callback(lambda o, c: 2 * np.asarray(o) * c[:, None], shape, outputs, cotangent),
    )


opaque_square.defvjp(lambda outputs: (opaque_square(outputs), outputs), _opaque_gradient)


def expand(loss: Any, outputs: Any) -> None:
    """The default terminal model of a loss."""
    gt.terminal.ExactLoss().expand(loss, outputs)


def from_flax(module: Any, x: Any = X, **options: Any) -> gt.TracedNetwork:
    """The module as a network."""
    return gt.from_flax(module, x, **options)


def update(net: Any) -> None:
    """A step without random keys."""
    params = net.init(jax.random.key(0), X)
    tx: Any = gt.sgd(net, LOSS, 0.1)
    tx.update(None, tx.init(params), params, batch=(X, jnp.arange(4) % 2))


def implicit_step(base: Any, aux: Any = None, returned: Any = None) -> None:
    """A step of the implicit game, with an auxiliary output if one is given."""
    has_aux = aux is not None

    def apply_fn(params: Any, x: jax.Array) -> Any:
        return (NET.apply(params, x), returned) if has_aux else NET.apply(params, x)

    params = NET.init(jax.random.key(0), X)
    tx: Any = gt.implicit(base, apply_fn, LOSS, has_aux=has_aux, aux=aux)
    tx.update(None, tx.init(params), params, batch=(X, jnp.arange(4) % 2))


def joint_step(terms: Any, batch: Any = (X, X), **options: Any) -> None:
    """A step of the joint game with one parameter matrix."""
    w = jnp.ones((3, 2))
    tx: Any = gt.joint(terms)
    tx.update(None, tx.init(w), w, batch=batch, **options)


def apply_matrix(w: Any, x: Any) -> Any:
    """A linear model."""
    return x @ w


def without_batch() -> None:
    """An update that lacks its batch."""
    params = NET.init(jax.random.key(0), X)
    tx: Any = gt.sgd(NET, LOSS, 0.1)
    tx.update(None, tx.init(params), params)


def dataset(images: Any) -> Dataset:
    """A data set of two images."""
    labels = np.zeros(2, np.int32)
    return Dataset("set", images, labels, images, labels, 2)


def archive_member(size: int) -> None:
    """A member of an archive with this claimed size."""
    member = tarfile.TarInfo("images")
    member.size = size
    raw_files._checked_member_name(Path("archive"), member)


def in_folder(use: Callable[[Path], Any]) -> Callable[[], Any]:
    """A function that is called with an empty folder."""

    def run() -> None:
        with TemporaryDirectory() as folder:
            use(Path(folder))

    return run


def read_large_file(folder: Path) -> None:
    """Reads a file above the size limit."""
    (folder / "file").write_text("12345")
    files.read_text_file(folder / "file", 4)


def long_stream(folder: Path) -> None:
    """A stream that returns more than any data set has."""
    limited = raw_files._LimitedStream(io.BytesIO(b"12"), folder)
    limited._left = 1
    limited.read(2)


def lock_missing_folder(folder: Path) -> None:
    """A run in a folder that does not exist."""
    with run_folder.RunFolder(folder / "absent").locked():
        pass


def folder_below_file(folder: Path) -> None:
    """A run below a file."""
    (folder / "file").touch()
    run_folder.new_folder(folder / "file" / "runs", "run")


def uneven_batch() -> None:
    """Three samples on two devices."""
    mesh = jax.sharding.AbstractMesh((2,), ("data",))
    distributed._place_array(np.ones(3), distributed.split_samples(mesh))  # type: ignore[arg-type]


def plot_nothing() -> None:
    """The command without a run."""
    from gtddp_lab.cli.plot_command import plot_runs

    plot_runs(PlotOptions(runs=()))


def unknown_option() -> None:
    """The command with an option that it does not have."""
    from gtddp_lab.cli.parse import parse_command_line

    parse_command_line(["train", "--epoch", "3"])


PROVOKED: dict[tuple[str, str], Callable[[], Any]] = {
    ("joint/game.py", "joint(momentum"): lambda: gt.joint(apply_matrix, momentum=1.0),
    ("joint/optimizer.py", "joint: the game has terms"): lambda: joint_step(
        apply_matrix, losses=apply_matrix
    ),
    ("joint/step.py", "joint: the residual of term … is empty"): lambda: joint_step(
        lambda w, sample: w[:0]
    ),
    ("joint/terms.py", "supervised_term: give a model"): lambda: gt.supervised_term(
        apply_matrix, UNKNOWN
    ),
    ("joint/terms.py", "supervised_term: apply_fn must"): lambda: joint_step(
        gt.supervised_term(lambda w, x: (x @ w).sum(), LOSS)
    ),
    ("joint/terms.py", "supervised_term: loss(outputs, targets) returned"): lambda: joint_step(
        gt.supervised_term(apply_matrix, lambda outputs, targets: outputs.sum())
    ),
    ("joint/terms.py", "supervised_term: its samples"): lambda: joint_step(
        gt.supervised_term(apply_matrix, LOSS), X
    ),
    ("explain/__init__.py", "explain: the network must"): lambda: gt.explain(UNKNOWN),
    ("explain/__init__.py", "explain: a curvature needs"): lambda: gt.Network(NET.layers).explain(
        curvature=gt.curvature.SGD(0.1)
    ),
    ("tracing/sample_axes.py", "from_flax: a reshape"): lambda: from_flax(
        Turned(), jnp.ones((4, 3, 2))
    ),
    ("tracing/grouping.py", "from_flax(unsupported='error')"): lambda: from_flax(
        nn.RNN(nn.GRUCell(2)), X[:, :, None], unsupported="error"
    ),
    ("tracing/pure_model.py", "params: …"): lambda: from_flax(nn.Dense(2)).split(
        {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}
    ),
    ("flax_models/from_flax.py", "from_flax: invalid"): lambda: from_flax(
        nn.Dense(2), unsupported="x"
    ),
    ("tracing/traced_network.py", "rngs is missing …: the model draws"): lambda: update(
        from_flax(Dropping())
    ),
    ("tracing/traced_model.py", "from_flax: the outputs do"): lambda: from_flax(Idle()),
    ("tracing/traced_model.py", "from_flax: …, an output of the model"): (
        lambda: from_flax(Constant())
    ),
    ("tracing/traced_model.py", "from_flax: …, an output of shape"): lambda: from_flax(Balanced()),
    ("network/errors.py", "… reads or writes complex"): (
        lambda: refuse_complex_numbers("the layer Dense", 1j * X)
    ),
    ("core/outputs.py", "the model returned no"): lambda: expand(lambda outputs: X[:, 0], None),
    ("core/outputs.py", "the model returned …"): lambda: expand(
        lambda outputs: outputs[0][:, 0], (X, jnp.ones(()))
    ),
    ("core/loss_pairing.py", "loss(outputs, targets) broadcasts"): lambda: check_loss_pairing(
        lambda outputs, targets: jnp.square(outputs - targets).sum(-1), X[:, :1], X[:, 0]
    ),
    ("terminal/base.py", "loss(outputs, targets) cannot be differentiated"): (
        lambda: expand(opaque_square, X)
    ),
    ("sequential/step.py", "gtddp: equilibrium must be"): lambda: gt.sgd(
        NET, LOSS, 0.1, equilibrium="nash"
    ),
    ("sequential/step.py", "Invalid rollout"): lambda: gt.sgd(NET, LOSS, 0.1, rollout="x"),
    ("core/optax_base.py", "…: the base needs"): lambda: implicit_step(optax.contrib.sophia(0.1)),
    ("core/validation.py", "implicit: aux must be"): lambda: implicit_step(
        optax.sgd(0.1), {"name": "x"}, {"name": "y"}
    ),
    ("core/validation.py", "implicit: aux at"): lambda: implicit_step(
        optax.sgd(0.1), jnp.zeros(2), jnp.zeros(3)
    ),
    ("core/validation.py", "…: update is missing"): without_batch,
    ("core/validation.py", "…: invalid"): lambda: gt.curvature.KFAC(0.1, positions="all"),
    ("network/lowering.py", "…: at=…"): lambda: gt.Network([gt.Residual(nn.Dense(3), at=3)]),
    ("network/modes.py", "this stage depends"): lambda: DROPPING.stages[0](
        DROPPING.init(jax.random.key(0), X), (X,)
    ),
    ("network/network.py", "rngs is missing"): lambda: update(DROPPING),
    ("reference/collapsed.py", "Invalid terminal"): lambda: gt.reference.collapsed_step(
        (), {}, X, jnp.sum, UNKNOWN, terminal="x"
    ),
    ("reference/ddp.py", "Invalid coupling"): lambda: gt.reference.ddp_step(
        (), {}, X, jnp.sum, UNKNOWN, UNKNOWN, coupling="x"
    ),
    ("weighting/full.py", "weighting.…: factors"): lambda: gt.weighting.Full(factors="x"),
    ("soap/soap.py", "curvature.SOAP("): lambda: gt.curvature.SOAP(0.1, b1=1.0),
    ("weighting/exact.py", "Invalid form"): lambda: gt.weighting.Exact(form="x"),
    ("terminal/base.py", "loss(outputs, targets) returned …. It must return real"): (
        lambda: gt.terminal.ExactLoss().expand(lambda outputs: outputs.sum(-1).astype(int), X)
    ),
    ("training/clock.py", "Invalid part"): lambda: clock.RunClock().add_seconds("adam", "x", 1.0),
    ("data/dataset.py", "…: … images must have"): lambda: dataset(np.zeros((2, 1), np.float32)),
    ("data/dataset.py", "…: … images must be"): lambda: dataset(np.zeros((2, 1, 1, 1))),
    ("data/dataset.py", "…: … images must lie"): lambda: dataset(
        np.full((2, 1, 1, 1), 2, np.float32)
    ),
    ("raw/examples.py", "…: images"): lambda: Examples(np.ones((2, 3, 3, 1)), {}).checked(
        "file", (4, 4, 1), {}
    ),
    ("raw/original_files.py", "…: refused because … claims"): lambda: archive_member(2**50),
    ("raw/original_files.py", "…: refused because it decompresses"): in_folder(long_stream),
    ("raw/pickles.py", "refused because it asks for ….…"): lambda: pickles._RestrictedUnpickler(
        io.BytesIO(pickle.dumps(TemporaryDirectory, 2))
    ).load(),
    ("raw/pickles.py", "refused because it refers"): lambda: pickles._RestrictedUnpickler(
        io.BytesIO(b"\x80\x02K\x01Q.")
    ).load(),
    ("gtddp_lab/core/distributed.py", "an axis of"): uneven_batch,
    ("gtddp_lab/core/files.py", "it is larger"): in_folder(read_large_file),
    ("gtddp_lab/core/files.py", "it is nested"): lambda: files.parse_json(100_000 * "["),
    ("training/methods.py", "The "): lambda: methods.build_method("kfac", "implicit"),
    ("training/results.py", "Invalid status"): lambda: results.results_document(
        UNKNOWN, [], {}, status="x"
    ),
    ("training/run_folder.py", "cannot write to …: …."): in_folder(lock_missing_folder),
    ("training/run_folder.py", "cannot write to …: …"): in_folder(folder_below_file),
    ("gtddp_lab/core/look_up.py", "Invalid …"): lambda: look_up.look_up({"a": 1}, "x", "letter"),
    ("gtddp_lab/cli/parse.py", "… See gtddp"): unknown_option,
    ("gtddp_lab/cli/plot_command.py", "plot needs"): plot_nothing,
}
"""Inputs by the end of the module's path and the beginning of the message."""

FILES = "tests/lab/training/test_messages.py::"
ELSEWHERE = {
    ("raw/cifar.py", "…: its entry 'data'"): f"{FILES}test_entries_of_cifar",
    ("raw/original_files.py", "…: holds"): f"{FILES}test_an_archive_with_a_file_twice",
    ("raw/original_files.py", "…: refused because it has"): (
        "tests/lab/security/test_memory.py::test_an_archive_of_many_members"
    ),
    ("raw/original_files.py", "…: cannot be read"): f"{FILES}test_read_errors_are_named",
    ("raw/pickles.py", "refused because it asks for memory"): (
        "tests/lab/data/test_raw.py::test_hostile_pickles"
    ),
    ("raw/svhn.py", "…: refused because it claims"): (
        "tests/lab/security/test_memory.py::test_an_svhn_file_takes_no_more_than_its_images"
    ),
    ("gtddp_lab/cli/train_command.py", "cannot write to"): f"{FILES}test_a_disk_that_is_full",
    ("data/store.py", "cannot write to"): f"{FILES}test_places_that_cannot_be_written_or_read",
    ("report/sources.py", "… cannot be read"): (
        f"{FILES}test_places_that_cannot_be_written_or_read"
    ),
}
"""Tests of messages whose words do not identify them, by module and beginning."""

ERRORS = (ValueError, UsageError, pickle.UnpicklingError, run_folder.RunFolderError)
"""What the inputs raise; network and data errors are subclasses of `ValueError`."""
