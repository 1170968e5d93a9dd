"""Digests that two replicas compare, and the hash chain of the log.

The digest of a state is the sum, modulo 2**128, of one hash for each row, each route, each
staged chunk and the settings (AdHash: Bellare and Micciancio, "A New Paradigm for
Collision-Free Hashing", 1997).  When one row changes, the sum changes by one subtraction
and one addition.  It does not depend on the order, and unlike an exclusive or it does not
cancel repeated terms.  Rows are also summed into 256 buckets by slot, so that two replicas
that differ can find out where.

Each route set has a sum of its own.  The digest of the whole state adds them up, each times an
odd number that follows from the number of its set.  So equal contents of two sets differ in the
digest, a copy of a set has a known sum, and a state that holds ``default`` alone has the digest
that it has in releases without route sets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache, lru_cache
from hashlib import blake2b, sha1, sha256
from typing import Final

from synaptoroute.core.change import (
    NO_DECISION,
    AliasChange,
    AliasRecord,
    FeedbackItem,
    FittedDecision,
    RouteRecord,
    SetRecord,
    StagedImport,
)
from synaptoroute.core.mutation import (
    DEFAULT_UNMATCHED_SHARE,
    ImportBegin,
    ImportChunk,
    PutRoute,
    SetLimits,
    SetTest,
    Settings,
)
from synaptoroute.core.rows import local_of

BUCKET_COUNT: Final = 256
_MODULUS_MASK: Final = (1 << 128) - 1
_HASH_BYTES: Final = 16
_ROW = struct.Struct("<III")


def row_hash(slot: int, owner: int, utterance: str, vector: bytes) -> bytes:
    """Hash one row of the tensor, with its owner and its text, to 16 bytes."""
    # Truncated SHA-256: a boot hashes every row, and most processors compute SHA-256 in
    # hardware, so it is faster here than BLAKE2.
    text = utterance.encode()
    head = _ROW.pack(slot, owner, len(text))
    return sha256(b"".join((head, text, vector))).digest()[:_HASH_BYTES]


def stored_row_hash(slot: int, owner: int, utterance: str, vector: bytes) -> bytes:
    """Hash a row whose slot and owner are as the database stores them."""
    # Only the numbers inside the set count, so that a copy of a set has the same row hashes.
    return row_hash(local_of(slot), local_of(owner), utterance, vector)


def route_hash(route: RouteRecord) -> bytes:
    name, metadata, payload = route.name, route.metadata, route.payload
    epoch, seq = route.revision
    # The lengths come first, so that different texts never give the same bytes.
    head = (
        f"route|{route.route_id}|{epoch}.{seq}|{_threshold_text(route.threshold)}"
        f"|{len(name)}|{len(metadata)}|{len(payload)}|"
    )
    # Descriptions and negatives are rows, whose hashes name the route and their kind.
    if route.confidence_min is not None:
        head = f"confidence|{_threshold_text(route.confidence_min)}|{head}"
    return sha256(f"{head}{name}{metadata}{payload}".encode()).digest()[:_HASH_BYTES]


def settings_hash(settings: Settings) -> bytes:
    parts = [
        settings.aggregation,
        str(settings.topk),
        _threshold_text(settings.threshold),
        str(settings.capacity_slots),
    ]
    if settings.cascade != "auto" or settings.calibration:
        mode = "auto" if settings.cascade == "auto" else str(int(settings.cascade))
        parts += [mode, settings.calibration]
    if settings.feedback:
        parts.append(f"feedback|{settings.feedback}")
    if settings.repair_words:
        parts.append("repair_words")
    share = settings.expected_unmatched_share
    if (settings.confidence_min, share, settings.ignore) != (None, DEFAULT_UNMATCHED_SHARE, ()):
        confidence_min = _threshold_text(settings.confidence_min)
        parts += ["decision", confidence_min, _threshold_text(share), *settings.ignore]
    return hash_fields(b"settings", *parts)


def decision_hash(decision: FittedDecision) -> bytes:
    head = f"decision|{decision.at_ms}|{decision.node}|".encode()
    return sha256(head + decision.payload).digest()[:_HASH_BYTES]


def feedback_hash(item: FeedbackItem) -> bytes:
    """Hash one item of the review queue to 16 bytes."""
    route, was = (("", name) if name else ("none", "") for name in (item.route, item.was))
    numbers = f"{item.at_ms}.{item.times}.{item.seq}"
    return hash_fields(b"feedback", item.item_id, item.text, *route, *was, numbers)


def test_hash(test: SetTest) -> bytes:
    """Hash one test of a route set to 16 bytes."""
    route = ("none", "") if test.route is None else ("", test.route)
    return hash_fields(b"test", test.text, *route)


def set_hash(record: SetRecord) -> bytes:
    """Hash the record of a route set to 16 bytes."""
    (epoch, seq), (last_epoch, last_seq) = record.created, record.revision
    places = f"{epoch}.{seq}|{last_epoch}.{last_seq}"
    limits = _limits_text(record.limits)
    return hash_fields(b"set", str(record.number), record.name, record.forked_from, places, limits)


@lru_cache(maxsize=64)  # Every write hashes a record twice
def _limits_text(limits: SetLimits) -> str:
    return ".".join([str(getattr(limits, each.name)) for each in fields(limits)])


def alias_hash(alias: AliasRecord) -> bytes:
    """Hash an alias with its history to 16 bytes."""
    changes = [text for change in alias.history for text in _change_texts(change)]
    shares = (_threshold_text(alias.shadow_share), _threshold_text(alias.canary_share))
    names = (alias.name, alias.target, alias.shadow, alias.canary, str(alias.revision))
    return hash_fields(b"alias", *names, *shares, *changes)


def _change_texts(change: AliasChange) -> list[str]:
    return [_threshold_text(each) if isinstance(each, float) else str(each) for each in change]


def import_hash(begin: ImportBegin) -> bytes:
    return hash_fields(b"import", begin.import_id, str(begin.replace))


def chunk_hash(chunk: ImportChunk) -> bytes:
    """Hash a staged chunk with its vectors."""
    state = blake2b(hash_fields(b"chunk", chunk.import_id, str(chunk.number)))
    for part in chunk.parts:
        state.update(_part_hash(part))
    return state.digest()[:_HASH_BYTES]


def _part_hash(part: PutRoute) -> bytes:
    threshold = _threshold_text(part.threshold)
    texts = (part.name, threshold, part.metadata, part.payload, *part.utterances)
    state = blake2b(hash_fields(b"part", *texts) + b"".join(part.vectors), digest_size=_HASH_BYTES)
    new = (part.confidence_min, part.description, part.negatives)
    if new != (None, None, ()):
        described = "" if part.description is None else f"described {part.description}"
        more = (_threshold_text(part.confidence_min), described, *part.negatives)
        state.update(hash_fields(b"more", *more))
        state.update(part.description_vector + b"".join(part.negative_vectors))
    return state.digest()


def _threshold_text(threshold: float | None) -> str:
    # Equal thresholds must have equal texts: 1 and 1.0, -0.0 and 0.0.
    return "" if threshold is None else (float(threshold) + 0.0).hex()


def hash_fields(kind: bytes, *texts: str) -> bytes:
    # Count and lengths are hashed too, so that different lists never give the same bytes.
    encoded = [kind, *map(str.encode, texts)]
    count = len(encoded)
    lengths = struct.pack(f"<{count + 1}I", count, *map(len, encoded))
    return blake2b(lengths + b"".join(encoded), digest_size=_HASH_BYTES).digest()


class Digest:
    """Running sum over a state.

    Invariants: equal states have equal sums, independent of their history.  Removing what was
    added restores the sum.
    """

    __slots__ = ("_total", "buckets")

    def __init__(self) -> None:
        self._total = 0
        self.buckets = [0] * BUCKET_COUNT

    @property
    def total(self) -> int:
        """The sum, below 2**128."""
        return self._total

    def copy(self) -> Digest:
        """An independent sum with the same terms."""
        other = Digest()
        other._total, other.buckets = self._total, list(self.buckets)
        return other

    def add_row(self, slot: int, hashed: bytes) -> None:
        term, bucket = int.from_bytes(hashed, "little"), slot % BUCKET_COUNT
        self._total = (self._total + term) & _MODULUS_MASK
        self.buckets[bucket] = (self.buckets[bucket] + term) & _MODULUS_MASK

    def remove_row(self, slot: int, hashed: bytes) -> None:
        term, bucket = int.from_bytes(hashed, "little"), slot % BUCKET_COUNT
        self._total = (self._total - term) & _MODULUS_MASK
        self.buckets[bucket] = (self.buckets[bucket] - term) & _MODULUS_MASK

    def add(self, hashed: bytes) -> None:
        """Add the hash of a route, a chunk or the settings."""
        self._total = (self._total + int.from_bytes(hashed, "little")) & _MODULUS_MASK

    def add_all(self, hashes: Iterable[bytes]) -> None:
        """Add many hashes at once, for a boot."""
        joined = b"".join(hashes)
        words = struct.unpack(f"<{len(joined) // 8}Q", joined)
        term = sum(words[::2]) + (sum(words[1::2]) << 64)
        self._total = (self._total + term) & _MODULUS_MASK

    def remove(self, hashed: bytes) -> None:
        """Remove the hash of a route, a chunk or the settings."""
        self._total = (self._total - int.from_bytes(hashed, "little")) & _MODULUS_MASK

    def add_rows(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """Add many rows at once, for a boot."""
        groups: list[list[bytes]] = [[] for _ in range(BUCKET_COUNT)]
        for slot, hashed in rows:
            groups[slot % BUCKET_COUNT].append(hashed)
        for bucket, group in enumerate(groups):
            # A hash is two 64-bit words; sum() adds each column without a Python loop.
            words = struct.unpack(f"<{2 * len(group)}Q", b"".join(group))
            self._add_bucket(bucket, sum(words[::2]) + (sum(words[1::2]) << 64))

    def add_row_sums(self, terms: Iterable[int]) -> None:
        """Add rows that were summed elsewhere: one term for each bucket, in order."""
        for bucket, term in enumerate(terms):
            self._add_bucket(bucket, term)

    def _add_bucket(self, bucket: int, term: int) -> None:
        self._total = (self._total + term) & _MODULUS_MASK
        self.buckets[bucket] = (self.buckets[bucket] + term) & _MODULUS_MASK

    def hex(self) -> str:
        """The sum as 32 hexadecimal digits."""
        return f"{self._total:032x}"


def sum_state(
    settings: Settings,
    row_hashes: Mapping[int, bytes],
    routes: Iterable[RouteRecord],
    imports: Iterable[StagedImport],
    feedback: Iterable[FeedbackItem],
    decision: FittedDecision = NO_DECISION,
    tests: Iterable[SetTest] = (),
) -> Digest:
    """Compute the sum of a route set from scratch."""
    digest = Digest()
    digest.add_rows(row_hashes.items())
    add_rest(digest, settings, routes, imports, feedback, decision, tests)
    return digest


def add_rest(
    digest: Digest,
    settings: Settings,
    routes: Iterable[RouteRecord],
    imports: Iterable[StagedImport],
    feedback: Iterable[FeedbackItem],
    decision: FittedDecision = NO_DECISION,
    tests: Iterable[SetTest] = (),
) -> None:
    """Add everything of a route set except its rows."""
    digest.add(settings_hash(settings))
    digest.add_all(map(test_hash, tests))
    digest.add_all(map(feedback_hash, feedback))
    if decision.payload:
        digest.add(decision_hash(decision))
    digest.add_all(map(route_hash, routes))
    for staged in imports:
        digest.add(import_hash(staged.begin))
        for chunk in staged.chunks:
            digest.add(chunk_hash(chunk))


@cache
def set_multiplier(number: int) -> int:
    """The odd factor of a route set's sum in the digest of the state; 1 for ``default``."""
    if not number:
        return 1
    return int.from_bytes(hash_fields(b"multiplier", str(number)), "little") | 1


def state_total(
    sums: Mapping[int, Digest], records: Iterable[SetRecord], aliases: Iterable[AliasRecord]
) -> int:
    """Add up the digest of a whole state.

    Args:
        sums: The sum of each route set, by its number.
        records: The records of the sets that have one.
        aliases: All aliases.
    """
    own = Digest()
    own.add_all(map(set_hash, records))
    own.add_all(map(alias_hash, aliases))
    weighted = sum(set_multiplier(number) * each.total for number, each in sums.items())
    return (own.total + weighted) & _MODULUS_MASK


def total_hex(total: int) -> str:
    """The digest of a state as 32 hexadecimal digits."""
    return f"{total & _MODULUS_MASK:032x}"


def next_chain(prev_chain: str, epoch: int, seq: int, digest: str) -> str:
    """Extend the hash chain by one entry, exactly as ``append.lua`` does."""
    return sha1(f"{prev_chain}|{epoch}|{seq}|{digest}".encode(), usedforsecurity=False).hexdigest()
