"""The chain of voters, proved from the genesis file on.

A change of the voters carries statements of a majority of the voters before it.  Each names the
write, the change, the keys of the voters before it, and a position at which its voter stood, so it
is of no use for another change, or later.  The changes in order are the *chain of the voters*: who
knows the keys of the first voters, from a genesis file, verifies those of today.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import ProtocolError
from synaptoroute.trust.certificates import dump_position, load_position
from synaptoroute.trust.statements import Signer, Verifier

CHANGE_PURPOSE: Final = "voters 1"
VOTES_MAX: Final = 99
CHAIN_BYTES_MAX: Final = 16_777_216


@dataclass(frozen=True, slots=True)
class VoterChange:
    """One change of the voters, as voters agree to it."""

    cluster: str
    op: str  # Identity of the write, 32 hexadecimal digits
    is_adding: bool
    node: str
    key: str  # Public key of the node
    before: str  # Hash of the keys of the voters before it


@dataclass(frozen=True, slots=True)
class AgreedChange:
    """The statement of one voter about a change."""

    by: str
    public_key: str
    change: VoterChange
    position: Position  # Where the voter stood


def hash_of_keys(keys: Iterable[str]) -> str:
    """The hash of the voters' keys; the order does not matter."""
    return sha256(",".join(sorted(keys)).encode()).hexdigest()


def sign_change(signer: Signer, change: VoterChange, position: Position) -> str:
    """State that this voter agrees to a change."""
    body = {**asdict(change), "at": dump_position(position)}
    return signer.sign(CHANGE_PURPOSE, json.dumps(body, separators=(",", ":")))


def read_change(verifier: Verifier, statement: str) -> AgreedChange:
    """Verify a voter's statement about a change.

    Raises:
        ProtocolError: It is malformed or forged.
    """
    said = verifier.read(CHANGE_PURPOSE, statement)
    try:
        body: Any = json.loads(said.body)
        position = load_position(body.pop("at"))
        change = VoterChange(**body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError("a statement about the voters is malformed") from error
    return AgreedChange(said.by, said.public_key, change, position)


def count_agreed(
    agreed: Iterable[AgreedChange], voters: Sequence[str], keys: Mapping[str, str]
) -> int:
    """Count the voters that agreed; a key counts once under whatever name."""
    names: set[str] = set()
    seen: set[str] = set()
    for each in agreed:
        is_own = keys.get(each.by, each.public_key) == each.public_key
        if each.by in voters and is_own and each.public_key not in seen:
            names.add(each.by)
            seen.add(each.public_key)
    return len(names)


def verify_chain(
    links: Iterable[str], verifier: Verifier, genesis: Iterable[str], cluster_id: str
) -> tuple[frozenset[str], int]:
    """Follow the chain of the voters from the keys of a genesis file to those of today.

    Changes that a newer genesis file already contains are skipped.

    Args:
        links: The changes in order, as ``core.replica`` writes them.
        verifier: Verifies the statements.
        genesis: Keys of the first voters.
        cluster_id: The identity of the cluster; empty for any.

    Returns:
        The keys of the voters, as far as the chain is sound, and how many changes led there.
    """
    pinned = frozenset(genesis)
    keys, count = Counter(pinned), 0
    for text in links:
        try:
            link = json.loads(text)
            before = Counter([str(key) for key in link["before"]])
            signed = _signed(link, before, verifier, cluster_id)
            # The first voters may be fewer than the genesis names: then its majority decides.
            is_continued = before == keys or (not count and _is_majority(signed, pinned))
            if is_continued and _is_majority(signed, set(before)):
                keys, count = _after(link, before), count + 1
            elif count:
                break
        except (ValueError, KeyError, TypeError, AttributeError, ProtocolError, RecursionError):
            break
    return frozenset(keys.elements()), count


def _signed(link: Any, before: Counter[str], verifier: Verifier, cluster_id: str) -> set[str]:
    """The keys that agreed to a link."""
    hashed = hash_of_keys(before.elements())
    signed = set()
    for statement in link["votes"][:VOTES_MAX]:
        said = read_change(verifier, str(statement))
        change = said.change
        if (change.op, change.is_adding, change.key) == (
            link["op"],
            link["is_adding"],
            link["key"],
        ):
            is_here = change.before == hashed and cluster_id in ("", change.cluster)
            signed.update([said.public_key] if is_here else [])
    return signed


def _after(link: Any, before: Counter[str]) -> Counter[str]:
    after = before.copy()
    after[link["key"]] += 1 if link["is_adding"] else -1
    if min(after.values()) < 0:
        raise ProtocolError("a change removes a voter that there is not", forged=True)
    return +after


def _is_majority(signed: set[str], of: Iterable[str]) -> bool:
    wanted = frozenset(of)
    return 2 * len(signed & wanted) > len(wanted)
