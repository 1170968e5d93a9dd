"""The checkpoint makes a boot fast and never makes it wrong."""

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
    PutSettings,
    RemoveUtterances,
    Settings,
)
from synaptoroute.engine.tensor_builder import tensor_of
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
    storage.derive = lambda *_: derived
    storage.checkpoint()
    storage.close()
    return history


def tensor_sum(stored: Stored) -> str:
    """What the tensor of a state would serve."""
    return tensor_of(stored, DIM).checksum()


def test_boot_from_a_checkpoint_gives_the_state_of_the_rows(path: Path, history: History) -> None:
    """Equal values, equal digest, equal tensor, whichever way they came."""
    quick = boot(path)
    checkpoint_of(path).unlink()
    slow = boot(path)

    assert (True, False) == (quick.is_from_checkpoint, slow.is_from_checkpoint)
    assert_holds(quick, history)
    assert quick.snapshot == slow.snapshot
    assert quick.sums.buckets == slow.sums.buckets
    assert tensor_sum(quick) == tensor_sum(slow)


def test_what_was_derived_comes_back_with_exactly_its_rows(path: Path, history: History) -> None:
    """It is an answer of the rows at one position, so one change makes it worthless."""
    kept = boot(path).derived
    commit(path, history, PatchRoute("r1", threshold=0.25))
    stored = boot(path)

    assert kept is not None
    assert 8 * (4 * DIM + 8) == len(kept)
    assert stored.is_from_checkpoint
    assert stored.derived is None


def test_derivation_is_asked_for_by_position_and_digest(path: Path, history: History) -> None:
    """Whoever derives can tell whether it has the state of which the checkpoint is."""
    asked = []
    storage = opened(path)
    storage.derive = lambda position, digest: asked.append((position, digest)) or b""
    storage.checkpoint()
    storage.close()

    assert [(history.replica.position, history.replica.digest)] == asked
    assert boot(path).derived is None


def test_flipped_byte_anywhere_is_never_believed(path: Path, history: History) -> None:
    """Whatever byte of the checkpoint changes, the state is the one of the database."""
    sound = checkpoint_of(path).read_bytes()
    refused = 0
    for at in [*range(200), *range(200, 4_096, 517), *range(4_096, len(sound), 7)]:
        checkpoint_of(path).write_bytes(sound[:at] + bytes([sound[at] ^ 0x41]) + sound[at + 1 :])
        stored = boot(path)
        refused += not stored.is_from_checkpoint
        assert_holds(stored, history)

    assert refused >= (len(sound) - 4_096) // 7


@pytest.mark.parametrize("keep_bytes", [0, 1, 100, 4_095, 4_096, 5_000, -1])
def test_truncated_checkpoint_is_no_checkpoint(
    path: Path, history: History, keep_bytes: int
) -> None:
    """A file that lost its end is dropped, and the rows are read."""
    content = checkpoint_of(path).read_bytes()
    checkpoint_of(path).write_bytes(content[:keep_bytes])
    stored = boot(path)

    assert_holds(stored, history)
    assert not stored.is_from_checkpoint
    assert not checkpoint_of(path).exists()


def test_longer_file_is_no_checkpoint(path: Path, history: History) -> None:
    """What follows the last column was not written by us."""
    with checkpoint_of(path).open("ab") as file:
        file.write(b"\0")

    assert not boot(path).is_from_checkpoint


@pytest.mark.parametrize("version", [1, checkpoint.FORMAT_VERSION + 1])
def test_other_format_is_no_checkpoint(path: Path, history: History, version: int) -> None:
    """A sound header of another version, with a right checksum, is not read."""
    content = bytearray(checkpoint_of(path).read_bytes())
    struct.pack_into("<I", content, 8, version)
    header_bytes = checkpoint._HEADER.size
    struct.pack_into("<I", content, header_bytes, zlib.crc32(content[:header_bytes]))
    checkpoint_of(path).write_bytes(content)
    stored = boot(path)

    assert not stored.is_from_checkpoint
    assert_holds(stored, history)


def test_checkpoint_of_another_encoder_is_not_read(path: Path, tmp_path: Path) -> None:
    """Its vectors mean something else, even where slots and texts are the same."""
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
    """Rows that changed since are read from the database, and only those."""
    commit(path, history, *mutations)
    stored = boot(path)
    replayed = tensor_sum(stored)
    checkpoint_of(path).unlink()

    assert stored.is_from_checkpoint
    assert_holds(stored, history)
    assert tensor_sum(boot(path)) == replayed


def test_checkpoint_newer_than_the_database_helps_without_harm(path: Path) -> None:
    """A database that was restored from a copy is right, whatever the checkpoint knows."""
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


def test_checkpoint_of_another_history_is_dropped(path: Path, tmp_path: Path) -> None:
    """Where nearly nothing of it is ours, reading all rows is no slower."""
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


def test_outcomes_of_the_checkpoint_are_those_of_the_file(path: Path) -> None:
    """Read late, an outcome is the one that was stored, and later ones join it."""
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
    """Its rows may be of many positions; the boot makes them rows of one.

    A walk that the disk holds up is waited for: a checkpoint of which half is stale
    would rightly not be used.
    """
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


def test_checkpoint_with_rows_of_a_route_that_went_meanwhile_is_of_use(path: Path) -> None:
    """The walk had passed them; at its end it stands where the database does."""
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


def test_checkpoint_that_finds_no_room_leaves_the_former(
    path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk costs the new one only, and leaves no draft."""
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


# --- what a boot from a checkpoint does not look at ---


def test_scrub_finds_what_the_boot_did_not_look_at(path: Path, history: History) -> None:
    """Memory is right, so queries go on; the file is neither written nor given away."""
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


def test_checkpoint_never_copies_a_rotten_row(path: Path, history: History) -> None:
    """Every row is verified on its way."""
    rot(path)
    storage = opened(path)
    with pytest.raises(StorageUnavailable, match="slot 7"):
        storage.checkpoint()
    storage.close()

    assert not checkpoint_of(path).exists()


def test_scrub_of_a_sound_file_changes_nothing(path: Path, history: History) -> None:
    """Pages, rows and op log are as they were written."""
    storage = opened(path)
    storage.scrub()
    storage.commit(history.write(put("later")))
    storage.close()

    assert storage.corruption is None
    assert_holds(boot(path), history)


def test_vectors_have_room_that_a_tensor_takes_over(path: Path, history: History) -> None:
    """A dense state is not copied on its way into the tensor."""
    stored = boot(path)
    tensor = Tensor(DIM)
    snapshot = stored.snapshot
    at = snapshot.position.revision
    tensor.load(stored.slots, stored.vectors, snapshot.routes, snapshot.settings, at)

    assert np.shares_memory(stored.vectors, tensor.view().blocks[0].rows)
