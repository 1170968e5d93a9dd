"""Requests to peers, for what the log no longer has.

A peer's op log bridges a trimmed log; a peer's snapshot replaces a state that is too old or that
has diverged.  Requests carry a short-lived proof of membership: an HMAC over the request and
Redis' time, with a secret that the nodes share.  Answers are not trusted: entries must continue
the receiver's hash chain, and a snapshot needs the announced SHA-256, its own digest, and a
position whose hash chain the log confirms.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from synaptoroute.core.mutation import Ballot, Entry, Position
from synaptoroute.errors import ClusterError, NotReady, OperatorSignatureNeeded, ProtocolError
from synaptoroute.private_files import open_private
from synaptoroute.sequencer.proven_http import (
    Answer,
    PeerTooOld,
    ProvenHttp,
    Target,
    check_status,
)
from synaptoroute.sequencer.wire import SigningKeys, StreamEntry
from synaptoroute.trust.statements import STATEMENT_BYTES_MAX, Signer, Verifier
from synaptoroute.trust.voters import CHAIN_BYTES_MAX
from synaptoroute.web.tls import ClientTls

HEAD_PATH: Final = "/peer/v1/head"
LOG_PATH: Final = "/peer/v1/log"
SNAPSHOT_PATH: Final = "/peer/v1/snapshot"
TABLE_PATH: Final = "/peer/v1/table"
ROWS_PATH: Final = "/peer/v1/rows"
CHALLENGE_CHARACTERS_MAX: Final = 64
CERTIFICATE_PATH: Final = "/peer/v1/certificate"
VOTERS_PATH: Final = "/peer/v1/voters"
AGREEMENT_PATH: Final = "/peer/v1/voters/agreement"
AGREEMENT_SECONDS: Final = 7.0
OLD_PROOF_HEADER: Final = "SR-Peer-Proof"  # Of releases before level 2
POSITION_HEADER: Final = "SR-Position"
SHA_HEADER: Final = "SR-SHA256"
PROOF_AGE_MS_MAX: Final = 300_000
SNAPSHOT_BYTES_MAX: Final = 64 << 30
ROWS_BYTES_MAX: Final = 64 << 20
TABLE_BYTES_MAX: Final = 256 << 20  # A static table has 512 bytes a token
LOG_BYTES_MAX: Final = 8 << 20  # Most bytes of an op log in one request
_LINE_BYTES_MAX: Final = 256
_LINE: Final = re.compile(
    rb"(\d{1,16}) (\d{1,16}) ([0-9a-f]{40}) ([0-9a-f]{40}) (\d{1,16}) (\d{1,8})"
)
BOOT_TRIES: Final = 10
BOOT_RETRY_SECONDS: Final = 0.2
_POSITION: Final = re.compile(r"([0-9]{1,16})\.([0-9]{1,16})\.([0-9a-f]{40})")
HEAD_SECONDS: Final = 1.0
_HEAD_BYTES_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class PeerHead:
    """A peer's signed report of its own position."""

    node_id: str
    cluster_id: str
    position: Position  # Durable
    promised: Ballot  # The newest ballot that binds it
    epoch_id: str  # The ballot that opened the epoch of its position

    def dump(self) -> bytes:
        return json.dumps(
            {
                "node": self.node_id,
                "cluster": self.cluster_id,
                "position": format_position(self.position),
                "promised": str(self.promised),
                "epoch_id": self.epoch_id,
            }
        ).encode()

    @classmethod
    def parse(cls, body: bytes) -> PeerHead:
        """Read what ``dump`` wrote.

        Raises:
            ProtocolError: It is malformed.
        """
        try:
            found = json.loads(body)
            texts = [found[name] for name in ("node", "cluster", "epoch_id")]
            promised = found["promised"]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("a field is not a text")
            ballot = Ballot() if promised == str(Ballot()) else Ballot.parse(promised)
            position = parse_position(found["position"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProtocolError("a peer's head is malformed") from error
        return cls(texts[0], texts[1], position, ballot, texts[2])


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    path: Path  # The receiver deletes it
    position: Position  # As announced by the donor


@dataclass(frozen=True, slots=True)
class PeerLog:
    # Directly after the position; none if the op log does not reach back
    entries: tuple[Entry, ...]
    position: Position  # Position of the peer


class Membership:
    """Proofs of membership, made with the secret that the nodes share."""

    def __init__(self, secret: Callable[[], bytes], now_ms: Callable[[], int]) -> None:
        self._secret = secret
        self._now_ms = now_ms

    def proof(self, path_and_query: str) -> str:
        now_ms = str(self._now_ms())
        return f"{now_ms}.{self._sign(path_and_query, now_ms)}"

    def is_proof(self, path_and_query: str, proof: str) -> bool:
        """Whether a proof was made by a member and is not too old."""
        made_ms, _, signature = proof.partition(".")
        if not (made_ms.isascii() and made_ms.isdigit() and len(made_ms) <= 16):
            return False
        if not hmac.compare_digest(
            signature.encode(), self._sign(path_and_query, made_ms).encode()
        ):
            return False
        return abs(self._now_ms() - int(made_ms)) <= PROOF_AGE_MS_MAX

    def _sign(self, path_and_query: str, made_ms: str) -> str:
        message = f"{made_ms}|{path_and_query}".encode()
        return hmac.new(self._secret(), message, hashlib.sha256).hexdigest()


class PeerClient:
    """Sends requests to peers.  Used on one event loop.

    Args:
        membership: Makes the proofs that releases before level 2 understand.
        signer: Returns what signs requests as this process.
        verifier: Verifies peers.
        signing_keys: Verify the seals of entries.
        tls: Certificates for ``https``.
        allow_plain: Ask peers without TLS although there are certificates.
        is_strict: Returns whether peers that sign nothing are not asked any more.
        own_urls: Addresses that are from the settings of this process.
    """

    def __init__(
        self,
        membership: Membership,
        signer: Callable[[], Signer],
        verifier: Verifier,
        signing_keys: SigningKeys,
        tls: ClientTls | None = None,
        *,
        allow_plain: bool = False,
        is_strict: Callable[[], bool] = bool,
        own_urls: Collection[str] = (),
    ) -> None:
        self._membership = membership
        self._signing_keys = signing_keys  # Verify the seals of entries
        self._is_strict = is_strict
        self._own_urls = frozenset(url.rstrip("/") for url in own_urls)
        self._http = ProvenHttp(signer, lambda: verifier, tls=tls, allow_plain=allow_plain)

    async def close(self) -> None:
        await self._http.close()

    async def read_log(self, url: str, after: Position, node: str = "") -> PeerLog:
        """Read the entries after a position from a peer's op log.

        Args:
            url: Its address.
            after: The position; the peer refuses one that is not of its history.
            node: The identity that it must prove; empty takes any member.
        """
        path = f"{LOG_PATH}?epoch={after.epoch}&seq={after.seq}&chain={after.chain}"
        async with self._open(url, path, node) as answer:
            position = parse_position(_position_of(answer))
            body = await answer.read(2 * LOG_BYTES_MAX)
        entries = await asyncio.to_thread(parse_entries, body, self._signing_keys)
        return PeerLog(tuple(entries), position)

    async def read_head(self, url: str, node: str = "") -> PeerHead:
        """Ask a peer for its position and its promise.

        Args:
            url: Its address.
            node: The identity that it must prove.  Without one, what it says of its identity is
                not proved, and it may not count as a voter.

        Raises:
            PeerDown: Nothing listens there.
            PeerTooOld: It runs a release without this request.
            ClusterError: No answer in time, or a refusal.
            ProtocolError: Another node answers, or the answer is malformed.
        """
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                async with self._open(url, HEAD_PATH, node) as answer:
                    if answer.signed is None:  # every release with this request signs its answers
                        raise PeerTooOld("a peer does not sign its head")
                    head = PeerHead.parse(await answer.read(_HEAD_BYTES_MAX))
        except TimeoutError as error:
            raise ClusterError("a peer does not answer in time") from error
        if node and head.node_id != node:
            raise ProtocolError(f"another node than {node} answers at its address", forged=True)
        return head

    async def ask_boot(self, url: str, public_key: str) -> str:
        """Ask which run of a node is at an address; empty if it does not say so itself.

        Nothing is sent but a random number.
        """
        for _ in range(BOOT_TRIES):
            try:
                boot = await self._http.boot(url)
            except NotReady:
                await asyncio.sleep(BOOT_RETRY_SECONDS)  # It is starting
                continue
            except (ClusterError, ProtocolError):
                return ""
            return boot.boot if boot.public_key == public_key else ""
        return ""

    async def read_rows(self, url: str, buckets: Sequence[int]) -> bytes:
        """Read a peer's sums, and its rows of some buckets; see ``replication.row_repair``."""
        path = f"{ROWS_PATH}?buckets={'.'.join(map(str, buckets))}"
        async with self._open(url, path) as answer:
            return await answer.read(ROWS_BYTES_MAX)

    async def read_table(self, url: str, fingerprint: str, name: str) -> bytes:
        """Read a peer's static table of an encoder; see ``encoder.table_files``."""
        async with self._open(url, f"{TABLE_PATH}?encoder={fingerprint}&name={name}") as answer:
            return await answer.read(TABLE_BYTES_MAX)

    async def read_certificate(self, url: str, position: Position) -> bytes:
        """Read what a voter says of its content at a position; see ``trust.certificates``.

        The voter waits for a position that it has not reached yet.
        """
        path = f"{CERTIFICATE_PATH}?position={format_position(position)}"
        async with self._open(url, path) as answer:
            return await answer.read(STATEMENT_BYTES_MAX)

    async def read_agreement(self, url: str, node: str, query: str) -> str:
        """Ask a voter to agree to a change of the voters; see ``trust.voters``.

        Raises:
            OperatorSignatureNeeded: It agrees only to what the operator signed.
            ClusterError: No answer in time, or a refusal.
        """
        try:
            async with asyncio.timeout(AGREEMENT_SECONDS):
                async with self._open(url, f"{AGREEMENT_PATH}?{query}", node) as answer:
                    text = (await answer.read(STATEMENT_BYTES_MAX)).decode("utf-8", "replace")
        except TimeoutError as error:
            raise ClusterError("a voter does not answer in time") from error
        if (refusal := read_refusal(text)) is not None:
            raise OperatorSignatureNeeded(refusal)
        return text

    async def read_voters(self, url: str) -> bytes:
        """Read the chain of the voters as a peer has it; see ``trust.voters``."""
        async with self._open(url, VOTERS_PATH) as answer:
            return await answer.read(CHAIN_BYTES_MAX)

    async def fetch_snapshot(
        self,
        url: str,
        folder: Path,
        name: str,
        on_position: Callable[[Position], None] | None = None,
    ) -> SnapshotFile:
        """Download a peer's snapshot.

        Args:
            url: Address of the peer.
            folder: Folder of the file.
            name: Name of the file there; it is removed if the download fails.
            on_position: Called with the announced position before the download begins.
        """
        target = folder / name
        digest = hashlib.sha256()
        size_bytes = 0
        try:
            async with self._open(url, SNAPSHOT_PATH) as answer:
                position = parse_position(_position_of(answer))
                announced = answer.headers.get(SHA_HEADER, "")
                if on_position is not None:
                    on_position(position)
                file = await asyncio.to_thread(open_private, target, "wb")
                try:
                    async for part in answer.parts():
                        size_bytes += len(part)
                        if size_bytes > SNAPSHOT_BYTES_MAX:
                            raise ProtocolError("a snapshot is over the limit")
                        await asyncio.to_thread(_keep, file, digest, part)
                finally:
                    await asyncio.to_thread(file.close)
            if digest.hexdigest() != announced:
                raise ProtocolError("a snapshot does not match its SHA-256")
        except BaseException:
            await asyncio.to_thread(target.unlink, missing_ok=True)
            raise
        return SnapshotFile(target, position)

    @asynccontextmanager
    async def _open(self, url: str, path: str, node: str = "") -> AsyncIterator[Answer]:
        target = Target(url, node, is_own_setting=url.rstrip("/") in self._own_urls)
        try:
            await self._http.prepare(target)
        except PeerTooOld:
            # A peer of an earlier release, during an upgrade.  Its proof can be relayed, so no
            # such peer is asked once all nodes know better.
            if self._is_strict():
                raise
            proof = {OLD_PROOF_HEADER: self._membership.proof(path)}
            opened = self._http.open_plain("GET", target, path, headers=proof)
        else:
            opened = self._http.open("GET", target, path)
        async with opened as answer:
            check_status(answer.status)
            yield answer


def dump_refusal(reason: str) -> str:
    """Write why a voter does not agree to a change of the voters."""
    return json.dumps({"refused": reason})


def read_refusal(text: str) -> str | None:
    """Read why a voter does not agree; None if it is no refusal."""
    try:
        refused = json.loads(text).get("refused")
    except (ValueError, AttributeError, RecursionError):
        return None
    return refused if isinstance(refused, str) else None


def _position_of(answer: Answer) -> str:
    if answer.signed is not None:
        return answer.signed.position
    return str(answer.headers.get(POSITION_HEADER, ""))


def _keep(file: BinaryIO, digest: hashlib._Hash, part: bytes) -> None:
    # On a thread: disk and hash would delay queries on the event loop.
    digest.update(part)
    file.write(part)


def dump_entry(epoch: int, seq: int, prev: str, chain: str, time_us: int, body: bytes) -> bytes:
    """Write an entry as ``parse_entries`` reads it: a line of text, then the sealed frame."""
    return f"{epoch} {seq} {prev} {chain} {time_us} {len(body)}\n".encode() + body


def parse_entries(body: bytes, signing_keys: SigningKeys) -> list[Entry]:
    """Read entries of a peer's op log; each is verified in itself, its seal included."""
    entries: list[Entry] = []
    at = 0
    while at < len(body):
        end = body.find(b"\n", at, at + _LINE_BYTES_MAX)
        line = _LINE.fullmatch(body[at:end]) if end >= 0 else None
        if line is None:
            raise ProtocolError("a peer's op log holds something other than entries")
        size_bytes = int(line[6])
        frame = body[end + 1 : end + 1 + size_bytes]
        if len(frame) != size_bytes:
            raise ProtocolError("a peer's op log is cut off")
        at = end + 1 + size_bytes
        held = StreamEntry(
            int(line[1]), int(line[2]), line[3].decode(), line[4].decode(), int(line[5]), frame
        )
        entries.append(held.decode(signing_keys, is_seal_needed=False))
    return entries


def parse_position(text: str) -> Position:
    """Read ``epoch.seq.chain``."""
    found = _POSITION.fullmatch(text)
    if found is None:
        raise ProtocolError("a peer announced a malformed position")
    return Position(int(found[1]), int(found[2]), found[3])


def format_position(position: Position) -> str:
    """Write a position as ``parse_position`` reads it."""
    return f"{position.epoch}.{position.seq}.{position.chain}"
