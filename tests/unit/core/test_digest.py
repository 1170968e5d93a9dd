"""Digests: equal states have equal sums, different states have different ones."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha1

import pytest

from synaptoroute.core.change import RouteRecord
from synaptoroute.core.codec import digest_of
from synaptoroute.core.digest import (
    BUCKET_COUNT,
    Digest,
    chunk_hash,
    import_hash,
    next_chain,
    route_hash,
    row_hash,
    settings_hash,
)
from synaptoroute.core.mutation import (
    CHAIN_START,
    ImportBegin,
    ImportChunk,
    PutRoute,
    Revision,
    Settings,
)

pytestmark = pytest.mark.unit

ROUTE = RouteRecord(3, "billing", (1,), ("a",), 0.5, "{}", "null", Revision(1, 2))
PART = PutRoute("billing", ("a", "b"), (b"\x00" * 4, b"\x01" * 4), 0.5)
CHUNK = ImportChunk("spring", 0, (PART,))


def test_row_hash_covers_slot_owner_text_and_vector() -> None:
    """Each field changes the hash, and fields are kept apart."""
    hashes = {
        row_hash(1, 2, "text", b"vector"),
        row_hash(2, 2, "text", b"vector"),
        row_hash(1, 3, "text", b"vector"),
        row_hash(1, 2, "texts", b"vector"),
        row_hash(1, 2, "textv", b"ector"),
        row_hash(1, 2, "text", b"vectos"),
    }

    assert 6 == len(hashes)
    assert {16} == {len(each) for each in hashes}


def test_row_hash_does_not_change_between_releases() -> None:
    """Databases contain it."""
    assert row_hash(1, 2, "ü", b"\x00" * 8).hex() == "7942c6930cde39f0bb44627e4da3449a"


@pytest.mark.parametrize(
    "fields",
    [
        {"route_id": 4},
        {"name": "billings"},
        {"threshold": None},
        {"threshold": 0.25},
        {"metadata": '{"a":1}'},
        {"payload": "1"},
        {"revision": Revision(2, 1)},
        {"confidence_min": 0.0},
    ],
)
def test_route_hash_covers_every_field_except_the_rows(fields: dict[str, object]) -> None:
    """A route that differs in one field has another hash."""
    assert route_hash(ROUTE) != route_hash(ROUTE._replace(**fields))


def test_route_hash_does_not_cover_the_rows() -> None:
    """A changed row must change the digest only once."""
    assert route_hash(ROUTE) == route_hash(ROUTE._replace(slots=(2,), utterances=("b",)))


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (0.0, -0.0), (-1, -1.0)])
def test_equal_thresholds_have_equal_hashes(one: float, other: float) -> None:
    """A database returns -0.0 as 0.0 and does not distinguish 1 from 1.0."""
    assert settings_hash(Settings(threshold=one)) == settings_hash(Settings(threshold=other))
    assert route_hash(ROUTE._replace(threshold=one)) == route_hash(ROUTE._replace(threshold=other))
    assert chunk_hash(replace(CHUNK, parts=(replace(PART, threshold=one),))) == chunk_hash(
        replace(CHUNK, parts=(replace(PART, threshold=other),))
    )


@pytest.mark.parametrize(
    "settings",
    [
        Settings(aggregation="max"),
        Settings(topk=4),
        Settings(threshold=0.75),
        Settings(capacity_slots=7),
        Settings(cascade=True),
        Settings(cascade=True, calibration="{}"),
        Settings(cascade=False),
        Settings(calibration="{}"),
        Settings(threshold=None),
        Settings(confidence_min=0.5),
        Settings(expected_unmatched_share=0.5),
        Settings(ignore=("a",)),
        Settings(ignore=("a", "b")),
        Settings(ignore=("a", "repair_words")),
        Settings(ignore=("a",), repair_words=True),
        Settings(repair_words=True),
    ],
)
def test_settings_hash_covers_every_field(settings: Settings) -> None:
    """Nodes that score differently must not have equal digests."""
    assert settings_hash(Settings()) != settings_hash(settings)


def test_import_hashes_cover_mode_number_and_parts() -> None:
    """Staged chunks are part of the state."""
    parts = (
        PutRoute("billing", ("a", "b"), (b"\x00" * 4, b"\x02" * 4), 0.5),
        PutRoute("billing", ("a", "c"), PART.vectors, 0.5),
        PutRoute("billing", PART.utterances, PART.vectors),
        PutRoute("billing", PART.utterances, PART.vectors, 0.5, payload="1"),
        replace(PART, confidence_min=0.5),
        replace(PART, description="", description_vector=b"\x00" * 4),
        replace(PART, description="c", description_vector=b"\x00" * 4),
        replace(PART, description="c", description_vector=b"\x02" * 4),
        replace(PART, negatives=("c",), negative_vectors=(b"\x00" * 4,)),
        replace(PART, negatives=("d",), negative_vectors=(b"\x00" * 4,)),
        replace(PART, negatives=("c",), negative_vectors=(b"\x02" * 4,)),
    )
    chunks = [CHUNK, replace(CHUNK, number=1), replace(CHUNK, import_id="s")]
    chunks += [replace(CHUNK, parts=(part,)) for part in parts]
    chunks.append(replace(CHUNK, parts=(PART, PART)))

    assert len(chunks) == len({chunk_hash(chunk) for chunk in chunks})
    assert import_hash(ImportBegin("spring")) != import_hash(ImportBegin("spring", replace=True))


def test_removing_what_was_added_restores_the_sum() -> None:
    """Exactly, even below zero and across the modulus."""
    digest = Digest()
    digest.remove(b"\xff" * 16)
    digest.remove_row(5, b"\xfe" * 16)

    assert Digest().hex() != digest.hex()

    digest.add_row(5, b"\xfe" * 16)
    digest.add(b"\xff" * 16)

    assert Digest().hex() == digest.hex() == "0" * 32
    assert [0] * BUCKET_COUNT == digest.buckets


def test_repeated_row_does_not_cancel_itself() -> None:
    """A sum counts two equal terms; an exclusive or would cancel them."""
    digest = Digest()
    digest.add_row(0, b"\x01" * 16)
    digest.add_row(256, b"\x01" * 16)

    assert "0" * 32 != digest.hex()
    assert 0 != digest.buckets[0]


def test_row_changes_only_its_own_bucket() -> None:
    """Two replicas that differ compare buckets to find the rows."""
    digest = Digest()
    digest.add_row(BUCKET_COUNT + 9, b"\x01" + b"\x00" * 15)

    assert [9] == [bucket for bucket, total in enumerate(digest.buckets) if total]


def test_chain_equals_the_one_of_the_lua_script() -> None:
    """SHA-1 over the fields, separated by bars."""
    frame = digest_of(b"header")
    expected = sha1(f"{CHAIN_START}|3|14|{frame}".encode()).hexdigest()

    assert expected == next_chain(CHAIN_START, 3, 14, frame)
    assert 40 == len(expected)
