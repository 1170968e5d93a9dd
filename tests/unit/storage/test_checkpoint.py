"""Checkpoints make a boot faster and never change its result."""

from __future__ import annotations

import errno
import struct
import threading
import time
import zlib
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from histories import DIM, FINGERPRINT, History, assert_holds, boot, commit, opened, put, rot
from synaptoroute.core.mutation import (
    DeleteRoute,
    ImportBegin,
    ImportChunk,
    Mutation,
    PatchRoute,
    Position,
    PutSettings,
    RemoveUtterances,
    Settings,
)
from synaptoroute.engine.engine import tensor_of
from synaptoroute.errors import StorageCorrupt, StorageUnavailable
from synaptoroute.storage import SQLiteStorage, Stored, checkpoint
from synaptoroute.storage.checkpoint import checkpoint_of
from synaptoroute.storage.maintenance import write_checkpoint
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.unit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.sqlite"


@pytest.fixture
def history(path: Path) -> History:
    """A file of eight routes with its checkpoint."""
    history = History()
    storage = opened(path)
    storage.commit(history.write(*(put(f"r{seed}", 3, seed) for seed in range(8))))
    storage.close()
    derived = tensor_of(boot(path), DIM).derived()
    storage = opened(path)
    storage.derive_with(lambda *_: derived)
    storage.checkpoint()
    storage.close()
    return history


def tensor_sum(stored: Stored) -> str:
    """Checksum of the tensor of a state."""
    return tensor_of(stored, DIM).checksum()


def test_boot_from_a_checkpoint_gives_the_same_state(path: Path, history: History) -> None:
    """Values, digest and tensor are equal."""
    quick = boot(path)
    checkpoint_of(path).unlink()
    slow = boot(path)

    assert (True, False) == (quick.is_from_checkpoint, slow.is_from_checkpoint)
    assert_holds(quick, history)
    assert quick.snapshot == slow.snapshot
    assert quick.sums[0].buckets == slow.sums[0].buckets
    assert tensor_sum(quick) == tensor_sum(slow)


def test_derived_bytes_are_used_only_with_exactly_their_rows(path: Path, history: History) -> None:
    """They are computed from the rows at one position; a change invalidates them."""
    kept = boot(path).derived
    commit(path, history, PatchRoute("r1", threshold=0.25))
    stored = boot(path)

    assert kept is not None
    assert 8 * (4 * DIM + 8) == len(kept)
    assert stored.is_from_checkpoint
    assert stored.derived is None


def test_derive_is_called_with_position_and_digest(path: Path, history: History) -> None:
    """The callback can tell whether it has the state of the checkpoint."""
    asked: list[tuple[Position, str]] = []

    def derive(position: Position, digest: str) -> bytes:
        asked.append((position, digest))
        return b""

    storage = opened(path)
    storage.derive_with(derive)
    storage.checkpoint()
    storage.close()

    assert [(history.replica.position, history.replica.digest)] == asked
    assert boot(path).derived is None


def test_flipped_byte_never_changes_the_state(path: Path, history: History) -> None:
    """Whichever byte of the checkpoint changes, the state is that of the database."""
    sound = checkpoint_of(path).read_bytes()
    refused = 0
    for at in [*range(200), *range(200, 4_096, 517), *range(4_096, len(sound), 7)]:
        checkpoint_of(path).write_bytes(sound[:at] + bytes([sound[at] ^ 0x41]) + sound[at + 1 :])
        stored = boot(path)
        refused += not stored.is_from_checkpoint
        assert_holds(stored, history)

    assert refused >= (len(sound) - 4_096) // 7


@pytest.mark.parametrize("keep_bytes", [0, 1, 100, 4_095, 4_096, 5_000, -1])
def test_truncated_checkpoint_is_removed(path: Path, history: History, keep_bytes: int) -> None:
    """The rows are read from the database."""
    content = checkpoint_of(path).read_bytes()
    checkpoint_of(path).write_bytes(content[:keep_bytes])
    stored = boot(path)

    assert_holds(stored, history)
    assert not stored.is_from_checkpoint
    assert not checkpoint_of(path).exists()


def test_checkpoint_with_extra_bytes_is_ignored(path: Path, history: History) -> None:
    """The size must be exactly that of the header."""
    with checkpoint_of(path).open("ab") as file:
        file.write(b"\0")

    assert not boot(path).is_from_checkpoint


@pytest.mark.parametrize("version", [1, checkpoint.FORMAT_VERSION + 1])
def test_checkpoint_of_another_format_is_ignored(
    path: Path, history: History, version: int
) -> None:
    """Even a header with a correct checksum."""
    content = bytearray(checkpoint_of(path).read_bytes())
    struct.pack_into("<I", content, 8, version)
    header_bytes = checkpoint._HEADER.size
    struct.pack_into("<I", content, header_bytes, zlib.crc32(content[:header_bytes]))
    checkpoint_of(path).write_bytes(content)
    stored = boot(path)

    assert not stored.is_from_checkpoint
    assert_holds(stored, history)


def test_checkpoint_of_another_encoder_is_ignored(path: Path, tmp_path: Path) -> None:
    """Even if slots and texts are the same."""
    other, ours = History(), History()
    mutation = put("r", 3)
    there = opened(tmp_path / "other.sqlite", fingerprint="b" * 64)
    there.commit(other.write(mutation))
    there.checkpoint()
    there.close()
    commit(path, ours, mutation)
    checkpoint_of(tmp_path / "other.sqlite").rename(checkpoint_of(path))
    stored = boot(path)

    assert not stored.is_from_checkpoint
    assert_holds(stored, ours)


@pytest.mark.parametrize(
    "mutations",
    [
        (put("later", 2, 50),),
        (put("r3", 2, 60),),
        (DeleteRoute("r7"),),
        (DeleteRoute("r0"),),
        (DeleteRoute("r0"), put("later", 5, 70)),
        (PatchRoute("r1", threshold=0.25),),
        (RemoveUtterances("r5", ("r5 5 utterance 1",)),),
        (PutSettings(Settings(aggregation="max")),),
        (ImportBegin("i"), ImportChunk("i", 0, (put("d", 2, 3),))),
    ],
)
def test_older_checkpoint_is_brought_up_to_date(
    path: Path, history: History, mutations: tuple[Mutation, ...]
) -> None:
    """Only rows that changed since are read from the database."""
    commit(path, history, *mutations)
    stored = boot(path)
    replayed = tensor_sum(stored)
    checkpoint_of(path).unlink()

    assert stored.is_from_checkpoint
    assert_holds(stored, history)
    assert tensor_sum(boot(path)) == replayed


def test_checkpoint_newer_than_the_database_is_used(path: Path) -> None:
    """The state is that of the database, which was restored from a copy."""
    history = History()
    commit(path, history, put("a", 6, 1), put("b", 6, 2))
    content = path.read_bytes()
    ahead = deepcopy(history)
    storage = opened(path)
    storage.commit(ahead.write(put("c", 3, 3), RemoveUtterances("a", ("a 1 utterance 0",))))
    storage.checkpoint()
    storage.close()
    path.write_bytes(content)
    stored = boot(path)

    assert stored.is_from_checkpoint
    assert_holds(stored, history)


def test_checkpoint_of_another_history_is_removed(path: Path, tmp_path: Path) -> None:
    """If most rows differ, reading all rows is no slower."""
    other, ours = History(), History()
    commit(tmp_path / "other.sqlite", other, *(put(f"o{each}", 3, each) for each in range(5)))
    there = opened(tmp_path / "other.sqlite")
    there.checkpoint()
    there.close()
    commit(path, ours, *(put(f"r{each}", 3, 10 + each) for each in range(5)))
    checkpoint_of(tmp_path / "other.sqlite").rename(checkpoint_of(path))
    stored = boot(path)

    assert not stored.is_from_checkpoint
    assert not checkpoint_of(path).exists()
    assert_holds(stored, ours)


def test_outcomes_from_a_checkpoint_equal_those_of_the_database(path: Path) -> None:
    """Outcomes after the checkpoint are added to those it holds."""
    history = History()
    storage = opened(path)
    for seed in range(40):
        storage.commit(history.write(put(f"r{min(seed, 30)}", 2), DeleteRoute("nobody")))
        if seed == 30:
            storage.checkpoint()
    storage.close()
    stored = boot(path)

    assert stored.is_from_checkpoint
    assert history.replica.snapshot().remembered == stored.snapshot.remembered
    assert {"applied", "rejected", "unchanged"} == {
        e.outcome.status for e in stored.snapshot.remembered
    }


def test_checkpoint_written_during_writes_is_sound(path: Path) -> None:
    """Its rows may be of several positions; the boot brings them to one."""
    # The writes wait for slow walks: a checkpoint with half of its rows stale is not used.
    history = History()
    storage = opened(path)
    storage.commit(history.write(*(put(f"r{seed}", 20, seed) for seed in range(60))))
    walks = 0

    def walk() -> None:
        nonlocal walks
        while not is_over.is_set():
            storage.checkpoint()
            walks += 1

    is_over = threading.Event()
    walker = threading.Thread(target=walk)
    walker.start()
    seed = 100
    while walks < 4:
        if seed >= 100 + 12 * (walks + 1):
            time.sleep(0.001)
            continue
        seed += 1
        name = f"r{seed % 60}"
        storage.commit(history.write(DeleteRoute(name) if seed % 3 == 0 else put(name, 19, seed)))
    is_over.set()
    walker.join()
    storage.close()
    stored = boot(path)

    assert stored.is_from_checkpoint
    assert_holds(stored, history)


def test_checkpoint_with_rows_of_a_deleted_route_is_used(path: Path) -> None:
    """The route was deleted after the walk had copied its rows."""
    history = History()
    storage = opened(path)
    storage.commit(history.write(*(put(f"r{seed}", 20, seed) for seed in range(60))))
    gone = iter([DeleteRoute("r0")])

    def write_once() -> None:
        for write in gone:
            storage.commit(history.write(write))

    write_checkpoint(path, write_once)
    storage.close()
    stored = boot(path)

    assert stored.is_from_checkpoint
    assert_holds(stored, history)


def test_failed_checkpoint_keeps_the_former_one(
    path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the former checkpoint and no draft."""
    content = checkpoint_of(path).read_bytes()
    monkeypatch.setattr("synaptoroute.storage.checkpoint.os.fsync", _no_room)
    storage = opened(path)
    with pytest.raises(StorageUnavailable) as caught:
        storage.checkpoint()
    monkeypatch.undo()
    storage.close()

    assert "disk_full" == caught.value.fields["reason"]
    assert content == checkpoint_of(path).read_bytes()
    assert [] == list(path.parent.glob("*draft*"))


def _no_room(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


# --- what a boot from a checkpoint does not read ---


def test_scrub_finds_corruption_that_the_boot_did_not_read(path: Path, history: History) -> None:
    """Queries continue from memory; the file is neither written nor exported."""
    rot(path)
    storage = SQLiteStorage(path)
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    with pytest.raises(StorageUnavailable, match="slot 7"):
        storage.scrub()
    reasons = []
    for attempt in (
        lambda: storage.commit(history.write(put("later"))),
        lambda: storage.snapshot_to(path.with_name("gift")),
    ):
        with pytest.raises(StorageUnavailable) as caught:
            attempt()
        reasons.append(caught.value.fields["reason"])
    storage.close()

    assert stored.is_from_checkpoint
    assert ["corrupt", "corrupt"] == reasons
    with pytest.raises(StorageCorrupt, match="slot 7"):
        boot(path)


def test_checkpoint_never_copies_a_corrupt_row(path: Path, history: History) -> None:
    """Every row is verified when it is copied."""
    rot(path)
    storage = opened(path)
    with pytest.raises(StorageUnavailable, match="slot 7"):
        storage.checkpoint()
    storage.close()

    assert not checkpoint_of(path).exists()


def test_scrub_of_a_sound_file_changes_nothing(path: Path, history: History) -> None:
    """Later commits and boots work."""
    storage = opened(path)
    storage.scrub()
    storage.commit(history.write(put("later")))
    storage.close()

    assert storage.corruption is None
    assert_holds(boot(path), history)


def test_tensor_uses_the_loaded_vectors_without_a_copy(path: Path, history: History) -> None:
    """The array has spare rows for the tensor."""
    stored = boot(path)
    tensor = Tensor(DIM)
    snapshot = stored.snapshot
    at = snapshot.position.revision
    tensor.load(stored.slots, stored.vectors, snapshot.routes, snapshot.settings, at)

    assert np.shares_memory(stored.vectors, tensor.view().blocks[0].rows)
