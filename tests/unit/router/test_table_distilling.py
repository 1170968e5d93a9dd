"""When a table is distilled in the background, and by which node."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from routers import until
from small_encoders import small_encoder
from synaptoroute.cascade.table_store import DISTILLING, NO_TABLE, TOO_LARGE, TableStore
from synaptoroute.encoder import Encoder, StaticTable, distil, table_file
from synaptoroute.encoder.table_files import KEPT_MAX, keep_table, kept_tables, load_table
from synaptoroute.errors import SequencerUnavailable
from synaptoroute.router import table_distilling
from synaptoroute.router.table_distilling import TableDistiller
from synaptoroute.sequencer.lease import Held, Taken

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_distilling, "MISSED_SECONDS", 0.0)
    monkeypatch.setattr(table_distilling, "REST_SECONDS_MAX", 0.0)


@pytest.fixture(name="encoder")
def own_encoder(tmp_path: Path) -> Any:
    """A user's own model, of 120 tokens."""
    encoder = Encoder(small_encoder("bert", tmp_path / "own"))
    yield encoder
    encoder.close()


class Engine:
    """The part of an engine that a distiller uses."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.learned: list[StaticTable] = []

    def learn_table(self, table: StaticTable) -> Any:
        self.learned.append(table)
        done: Future[None] = Future()
        done.set_result(None)
        return done


class FakeLease:
    """A lease that answers as told."""

    def __init__(self) -> None:
        self.answer: Any = Held("distil", "me", 1)

    async def acquire(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    renew = lambda self, held: self.acquire()  # noqa: E731


def distiller(
    engine: Engine, tables: TableStore, lease: FakeLease | None = None, tokens_max: int = 200
) -> TableDistiller:
    make = None if lease is None else lambda _: lease
    return TableDistiller(lambda: cast(Any, engine), tables, tokens_max, cast(Any, make))


async def test_missing_table_is_distilled_kept_and_used(encoder: Encoder) -> None:
    """It is the table that `model prepare` makes, and its progress is shown meanwhile."""
    kept: list[StaticTable] = []
    tables, engine = TableStore(keep=kept.append), Engine(encoder)
    worker = distiller(engine, tables)
    await worker.look(is_missed=True)
    await asyncio.sleep(0)
    during = tables.reason
    await until(lambda: bool(engine.learned))
    await until(lambda: tables.reason == NO_TABLE)
    await worker.stop()

    assert DISTILLING == during
    assert tables.distilled_share is None
    assert kept == engine.learned
    assert distil(encoder).checksum == kept[0].checksum


async def test_one_node_distils_and_another_takes_over_when_its_lease_ends(
    encoder: Encoder,
) -> None:
    engine, lease = Engine(encoder), FakeLease()
    tables = TableStore(keep=lambda _: None)
    worker = distiller(engine, tables, lease)
    lease.answer = Taken("other", 20_000)
    await worker.look(is_missed=True)
    assert (worker._work, engine.learned) == (None, [])
    lease.answer = SequencerUnavailable("away")
    with pytest.raises(SequencerUnavailable):
        await worker.look(is_missed=True)
    lease.answer = Held("distil", "me", 2)
    await worker.look(is_missed=True)
    await until(lambda: bool(engine.learned))
    await worker.stop()


@pytest.mark.parametrize("why", ["found", "lost", "stopped"])
async def test_work_ends_when_it_is_not_needed(
    encoder: Encoder, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer gave a table, the lease is another's, or the router stops."""
    monkeypatch.setattr(table_distilling, "TOKENS_A_RUN", 1)
    monkeypatch.setattr(table_distilling, "REST_SECONDS_MAX", 60.0)
    slow = SimpleNamespace(
        name="slow", fingerprint="f", vocabulary=encoder.vocabulary, encode_tokens=_slowly(encoder)
    )
    engine, lease, kept = Engine(slow), FakeLease(), []  # type: ignore[arg-type, var-annotated]
    tables = TableStore(keep=kept.append)
    worker = distiller(engine, tables, lease)
    await worker.look(is_missed=True)
    await until(lambda: bool(tables.distilled_share))
    if why == "found":
        await worker.look(is_missed=False)
    elif why == "lost":
        lease.answer = Taken("other", 20_000)
        await worker.look(is_missed=True)
    else:
        await worker.stop()
    await until(lambda: worker._work is None)
    await worker.stop()

    assert ([], []) == (kept, engine.learned)
    assert (NO_TABLE, None) == (tables.reason, tables.distilled_share)


def _slowly(encoder: Encoder) -> Any:
    def encode(tokens: Any) -> Any:
        time.sleep(0.05)
        return encoder.encode_tokens(tokens)

    return encode


async def test_large_vocabulary_is_left_to_model_prepare(encoder: Encoder) -> None:
    tables, engine = TableStore(keep=lambda _: None), Engine(encoder)
    worker = distiller(engine, tables, tokens_max=100)
    await worker.look(is_missed=True)
    assert (TOO_LARGE, None) == (tables.reason, worker._work)
    off = distiller(engine, TableStore(keep=lambda _: None), tokens_max=0)
    await off.look(is_missed=True)
    not_kept = distiller(engine, TableStore())
    await not_kept.look(is_missed=True)
    assert (None, None) == (off._work, not_kept._work)


async def test_encoder_that_fails_is_not_tried_again(encoder: Encoder) -> None:
    encoder.close()
    tables, engine = TableStore(keep=lambda _: None), Engine(encoder)
    worker = distiller(engine, tables)
    await worker.look(is_missed=True)
    await until(lambda: worker._work is None)
    await worker.look(is_missed=True)
    await worker.stop()

    assert worker._work is None
    assert NO_TABLE == tables.reason


def test_newest_tables_are_kept_beside_the_prepared_one(tmp_path: Path) -> None:
    """Named by their checksums; what an operator prepared is never replaced."""
    made = [StaticTable("f" * 64, np.full((2, 256), n, np.int16)) for n in range(KEPT_MAX + 1)]
    prepared = table_file("f" * 64, tmp_path)
    for number, table in enumerate(made):
        keep_table(table, tmp_path)
        for path in kept_tables("f" * 64, tmp_path):
            if table.checksum[:16] in path.name:
                os.utime(path, (number, number))
    kept = [load_table(path, "f" * 64) for path in kept_tables("f" * 64, tmp_path)]

    assert not prepared.exists()
    assert [each.checksum for each in kept if each] == [made[2].checksum, made[1].checksum]
