"""Checkpoints: which are kept, how runs resume, and errors when they cannot be used."""

import json
import shutil
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_lab.data import Feed
from gtddp_lab.training import checkpoints
from gtddp_lab.training.checkpoints import CheckpointError, Checkpoints, state_layout
from gtddp_lab.training.methods import build_method
from gtddp_lab.training.records import EpochRecord, RunEvent, TrainProgress, UnitResumed
from gtddp_lab.training.runner import RunPlan, run_unit
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.state import RunState
from gtddp_lab.training.trainer import Trainer

PLAN = RunPlan(epochs=2, log_every=4, checkpoint_every=5)
STEPS = 18


@pytest.fixture(scope="module")
def trainer(tiny_net: gt.Network, tiny_feed: Feed) -> Trainer:
    return Trainer(
        build_method("adam", "sequential"), tiny_net, tiny_feed, TrainSettings(0.01), batch_size=4
    )


def final(trainer: Trainer, folder: Path, seeds: tuple[int, ...] = (0,)) -> RunState:
    with Checkpoints(folder) as kept:
        saved = kept.restore(trainer.start(seeds))
    assert saved is not None
    assert saved.step == STEPS
    return saved.state


def train(trainer: Trainer, folder: Path, **options: Any) -> list[RunEvent]:
    with Checkpoints(folder) as kept:
        return list(run_unit(trainer, options.pop("seeds", (0,)), PLAN, kept, **options))


@pytest.fixture(scope="module")
def uninterrupted(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(trainer, folder)
    return folder


def scores(events: list[RunEvent]) -> list[Any]:
    """Records without times, which differ between runs."""
    found = [event for event in events if isinstance(event, EpochRecord)]
    return [(r.epoch, r.train_loss, r.average_loss, r.validation_loss, r.report) for r in found]


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(1,), (4, 1)])
def test_a_resumed_run_equals_an_uninterrupted_one(
    trainer: Trainer, uninterrupted: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """Bit for bit: state, totals within an epoch, and records."""
    told: list[RunEvent] = []
    for count in stops:
        left = iter(range(count - 1, -1, -1))
        told = train(trainer, tmp_path / "run", stop=lambda left=left: next(left) == 0)
        assert isinstance(told[-1], TrainProgress | EpochRecord)
    first, *rest = train(trainer, tmp_path / "run")
    assert isinstance(first, UnitResumed)
    assert 0 < first.step < STEPS
    chex.assert_trees_all_equal(final(trainer, tmp_path / "run"), final(trainer, uninterrupted))
    whole, *_ = train(trainer, uninterrupted)
    assert isinstance(whole, UnitResumed)
    assert scores([*first.records, *rest]) == scores(list(whole.records))


@pytest.mark.slow
def test_a_finished_run_does_nothing_more(trainer: Trainer, uninterrupted: Path) -> None:
    (told,) = train(trainer, uninterrupted)
    assert isinstance(told, UnitResumed)
    assert [record.epoch for record in told.records] == [1, 2]


def test_the_newest_and_the_best_are_kept(trainer: Trainer, tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "run", keep=2, keep_best=1) as kept:
        state = trainer.start((0,))
        records: list[EpochRecord] = []
        for step, accuracy in enumerate((0.1, 0.9, 0.5, 0.6, 0.2), start=1):
            records.append(EpochRecord("m", 0, step, 1.0, 1.0, 1.0, accuracy, 1.0, {}))
            kept.save(state, step, records, accuracy=accuracy)
        kept.save(state, 6, records)  # in the middle of an epoch: has no accuracy
    with Checkpoints(tmp_path / "run") as kept:
        assert kept.steps == [2, 5, 6]
        assert kept.best_step == 2


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_state_being_written_may_be_donated(trainer: Trainer, tmp_path: Path, size: int) -> None:
    """Orbax copies small arrays before `save` returns, and protects large ones from donation."""
    state = trainer.start((0,))._replace(params={"a": jnp.arange(size, dtype=jnp.float32)})
    overwrite = jax.jit(
        lambda x: jax.tree.map(lambda a: (0 * a + 7).astype(a.dtype), x), donate_argnums=0
    )
    with Checkpoints(tmp_path / "run") as kept:
        kept.save(state, 1, [])
        after = jax.block_until_ready(overwrite(state))
    with Checkpoints(tmp_path / "run") as kept:
        saved = kept.restore(after)
    assert saved is not None
    np.testing.assert_array_equal(saved.state.params["a"], np.arange(size, dtype=np.float32))


@pytest.mark.slow
def test_several_seeds_resume(trainer: Trainer, tmp_path: Path) -> None:
    train(trainer, tmp_path / "whole", seeds=(0, 1))
    left = iter((False, False, True))
    train(trainer, tmp_path / "parts", seeds=(0, 1), stop=lambda: next(left))
    train(trainer, tmp_path / "parts", seeds=(0, 1))
    states = [final(trainer, tmp_path / name, (0, 1)) for name in ("whole", "parts")]
    chex.assert_trees_all_equal(*states)


@pytest.fixture
def copy(uninterrupted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(uninterrupted, tmp_path / "copy"))


@pytest.mark.slow
def test_another_network_is_refused(trainer: Trainer, copy: Path, tiny_feed: Feed) -> None:
    import flax.linen as nn

    from gtddp_lab.networks import flatten

    net = gt.Network([flatten, nn.Dense(5), nn.tanh, nn.Dense(3)])
    other = Trainer(
        build_method("adam", "sequential"), net, tiny_feed, TrainSettings(0.01), batch_size=4
    )
    message = r"18 is of another network or optimizer: params\.Dense_0\.bias is .* there, .* here"
    with pytest.raises(CheckpointError, match=message):
        train(other, copy)
    assert final(trainer, copy).step == STEPS  # the checkpoint is still there


def test_another_optimizer_is_refused(tiny_net: gt.Network, copy: Path, tiny_feed: Feed) -> None:
    other = Trainer(
        build_method("sgd", "none"), tiny_net, tiny_feed, TrainSettings(0.01), batch_size=4
    )
    with pytest.raises(CheckpointError, match=r"is of another network or optimizer: opt_state"):
        train(other, copy)


# Orbax gives up at the first array; reading the others ends after its event loop has been closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_named(trainer: Trainer, copy: Path) -> None:
    """A file in a complete checkpoint is truncated, as by a broken disk."""
    newest = copy / str(STEPS)
    for file in (newest / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 0 and "d" in file.parts:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"18 is damaged \(remove .* resume from step 15\)"):
        train(trainer, copy)
    shutil.rmtree(newest)
    first, *_ = train(trainer, copy)
    assert isinstance(first, UnitResumed)
    assert first.step == 15


def flipped(file: Path, place: float) -> None:
    """Flips one bit of a file, at a relative position in [0, 1)."""
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 4
    file.write_bytes(content)


def test_a_flipped_bit_is_found(trainer: Trainer, tmp_path: Path) -> None:
    """Orbax reads an array with a wrong number without an error; the checksums detect it."""
    numbers = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    state = trainer.start((0,))._replace(params={"a": jnp.asarray(numbers)})
    with Checkpoints(tmp_path / "run") as kept:
        kept.save(state, 1, [])
    with Checkpoints(tmp_path / "run") as kept:
        saved = kept.restore(state)
        assert saved is not None
        chex.assert_trees_all_equal(saved.state, state)
    files = [file for file in (tmp_path / "run" / "1" / "state").rglob("d/*") if file.is_file()]
    flipped(max(files, key=lambda file: file.stat().st_size), 0.5)
    message = r"1 is damaged .*a does not match the checksum that was written with it"
    with Checkpoints(tmp_path / "run") as kept, pytest.raises(CheckpointError, match=message):
        kept.restore(state)


def _with_checksum(meta: dict[str, Any]) -> dict[str, Any]:
    """What an attacker writes, who computes the checksum anew."""
    return meta | {"checksum": checkpoints._meta_checksum(meta)}


def test_a_large_file_of_a_checkpoint_is_not_read(trainer: Trainer, copy: Path) -> None:
    with (copy / str(STEPS) / "meta" / "metadata").open("ab") as file:
        file.truncate(2**40)  # sparse
    with (
        Checkpoints(copy) as kept,
        pytest.raises(CheckpointError, match="takes more than 256 MiB of the disk"),
    ):
        kept.restore(trainer.start((0,)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda meta: meta | {"seconds": 1e9}, "its records do not match their checksum"),
        (lambda meta: meta | {"records": 3}, "records is int"),
        (lambda meta: meta | {"records": ["{}"]}, "its records do not match their checksum"),
        (lambda meta: meta | {"seconds": {"a": [1]}}, "seconds is dict, float is needed"),
        (lambda meta: {"seconds": 1.0}, "layout is NoneType"),
        (lambda meta: _with_checksum(meta | {"records": ["{}"]}), "missing 9 required"),
        (lambda meta: _with_checksum(meta | {"records": ["{"]}), "Expecting property name"),
        (lambda meta: _with_checksum(meta | {"records": [100_000 * "["]}), "recursion"),
        (lambda meta: [meta], "meta is list"),
    ],
)
def test_changed_records_are_refused(trainer: Trainer, copy: Path, edit: Any, message: str) -> None:
    file = copy / str(STEPS) / "meta" / "metadata"
    file.write_text(json.dumps(edit(json.loads(file.read_text()))))
    with Checkpoints(copy) as kept, pytest.raises(CheckpointError, match=message):
        kept.restore(trainer.start((0,)))


def test_an_unfinished_checkpoint_is_ignored(trainer: Trainer, copy: Path) -> None:
    """A killed process leaves a temporary folder with an incomplete checkpoint."""
    shutil.copytree(copy / str(STEPS), copy / "23.orbax-checkpoint-tmp")
    (copy / "23.orbax-checkpoint-tmp" / "_CHECKPOINT_METADATA").unlink()
    (told,) = train(trainer, copy)
    assert isinstance(told, UnitResumed)
    assert told.step == STEPS


def test_a_full_disk_is_reported_and_keeps_older_checkpoints(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orbax.checkpoint import CheckpointManager

    save = CheckpointManager.save

    def full(self: Any, step: int, *arguments: Any, **options: Any) -> bool:
        if step > 10:
            raise OSError(28, "No space left on device")
        return save(self, step, *arguments, **options)

    monkeypatch.setattr(CheckpointManager, "save", full)
    with pytest.raises(CheckpointError, match=r"cannot write a checkpoint to .*No space left"):
        train(trainer, tmp_path / "run")
    monkeypatch.undo()
    first, *_ = train(trainer, tmp_path / "run")
    assert isinstance(first, UnitResumed)
    assert first.step == 10


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("RESOURCE: ...\n [os_error_code='28'] "), "No space left on device"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (RuntimeError("something\nand more"), "something"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_error_reasons_are_one_line(
    trainer: Trainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    from orbax.checkpoint import CheckpointManager

    def fail(*arguments: Any, **options: Any) -> bool:
        raise error

    monkeypatch.setattr(CheckpointManager, "save", fail)
    with Checkpoints(tmp_path / "run") as kept, pytest.raises(CheckpointError) as told:
        kept.save(trainer.start((0,)), 1, [])
    assert str(told.value) == f"cannot write a checkpoint to {tmp_path / 'run'}: {reason}"


def test_an_unwritable_folder_is_reported(trainer: Trainer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot open the checkpoints in"):
        train(trainer, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("keep", "best", "message"),
    [(0, 1, "keep must be a whole number from 1"), (1, -1, "keep_best must be a whole number fr")],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, keep: int, best: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path / "run", keep, best)


def test_a_layout_names_everything(trainer: Trainer) -> None:
    found = state_layout(trainer.start((0,)))
    assert found["params.Dense_0.kernel"] == "float32[4, 4]"
    assert found["step"] == "int32[]"
