"""What is fuzzed: one function a target, which takes bytes and fails only by a defect.

A target may raise the errors that its docstring names; everything else, and a result that
contradicts itself, is a finding.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foreign_files import FOREIGN_FILES
from http_bytes import exchange_bytes
from replicas import frame_of
from synaptoroute.cli.route_files import inspect_route_file, read_route_file
from synaptoroute.core.codec import decode_proposal, encode_proposal, header_of
from synaptoroute.core.mutation import (
    AddUtterances,
    DeleteRoute,
    Finalize,
    OpenEpoch,
    PatchRoute,
    Position,
    Proposal,
    PutRoute,
    PutSettings,
    Settings,
)
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import StorageCorrupt, SynaptoRouteError
from synaptoroute.importers import read_labels
from synaptoroute.sequencer.peers import dump_entry, parse_entries
from synaptoroute.sequencer.wire import SigningKeys, keepalive_record, parse_message
from synaptoroute.snapshot_file import read_content
from synaptoroute.storage import SQLiteStorage
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier

KEYS = SigningKeys("default", {"k1": b"s" * 32})
SECRET = ClusterSecret("default", {"k1": b"s" * 32})
_OP_ID = bytes(range(16))
_VECTOR = b"\x00\x00\x80?" + bytes(12)
_PROPOSALS = (
    Proposal(_OP_ID, PutRoute("billing", ("a text",), (_VECTOR,), 0.5, '{"a":1}', "[1]")),
    Proposal(_OP_ID, AddUtterances("billing", ("b", "c"), (_VECTOR, _VECTOR))),
    Proposal(_OP_ID, DeleteRoute("billing"), request_hash=b"h" * 16),
    Proposal(_OP_ID, PatchRoute("billing", threshold=None), author="ops"),
    Proposal(_OP_ID, PutSettings(Settings())),
    Proposal(_OP_ID, Finalize(2, (("n1", "0" * 64),))),
    Proposal(_OP_ID, OpenEpoch("b", 0, ("n1",), "f" * 64, 4)),
)
_FRAMES = tuple(map(encode_proposal, _PROPOSALS))
_FOLDER = Path(tempfile.gettempdir())


def fuzz_http(data: bytes) -> None:
    """Requests on one connection: however they are cut, the responses are the same."""
    if data:
        sent = data[1:]
        cut = data[0] % max(1, len(sent))
        assert exchange_bytes(sent) == exchange_bytes(sent, cut), "a cut changes the responses"


def fuzz_codec(data: bytes) -> None:
    """Frames: ``CodecError`` and ``UnknownMutation``, or a proposal with exactly these bytes."""
    frames = [data]
    if data:
        frames.append(frame_of(data[1:], kind=data[0] % 32, level=1 + data[0] // 128))
    for frame in frames:
        with suppress(SynaptoRouteError):
            assert encode_proposal(decode_proposal(frame)) == frame, "a second encoding"


def fuzz_bus(data: bytes) -> None:
    """Messages of the bus, with and without keys: ``ProtocolError``."""
    for keys in (KEYS, SigningKeys("default")):
        with suppress(SynaptoRouteError):
            parse_message(data, keys)


def fuzz_peer_log(data: bytes) -> None:
    """A peer's op log: ``ProtocolError``; without the secret no entry has a verified seal."""
    with suppress(SynaptoRouteError):
        parse_entries(data, SigningKeys("default"))
    with suppress(SynaptoRouteError):
        parse_entries(data, KEYS)


def fuzz_statement(data: bytes) -> None:
    """Signed statements: ``ProtocolError``; nobody without the secret is admitted."""
    with suppress(SynaptoRouteError):
        statement = Verifier(SECRET).read("presence 1", data)
        assert statement.public_key == _IDENTITY.public_key, "a stranger was admitted"


def fuzz_snapshot(data: bytes) -> None:
    """A peer's snapshot file: ``StorageCorrupt``."""
    with tempfile.NamedTemporaryFile(dir=_FOLDER, suffix=".sqlite") as file:
        file.write(data)
        file.flush()
        with suppress(StorageCorrupt):
            read_content(Path(file.name))


_SUFFIXES = (".json", ".yaml", ".ndjson", ".zip", ".csv", ".md")


def fuzz_route_file(data: bytes) -> None:
    """Route files, foreign files and labels: an error of the project, never another one."""
    if not data:
        return
    suffix = _SUFFIXES[data[0] % len(_SUFFIXES)]
    with suppress(SynaptoRouteError):
        read_labels(f"q{suffix}", data[1:])
    with tempfile.NamedTemporaryFile(dir=_FOLDER, suffix=suffix) as file:
        file.write(data[1:])
        file.flush()
        for read in (read_route_file, inspect_route_file):
            with suppress(SynaptoRouteError):
                read(Path(file.name))


# Fixed, so that seeds of one process are genuine in another.
_IDENTITY = NodeIdentity(Ed25519PrivateKey.from_private_bytes(b"i" * 32))


def _seeds_http() -> list[bytes]:
    body = b'{"text":"refund"}'
    head = b"POST /v1/query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%b\r\n0\r\nX-Trailer: t\r\n\r\n" % (
        len(body),
        body,
    )
    get = b"GET /livez?a=%20b HTTP/1.1\r\nHost: x:80\r\n\r\n"
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    return [
        b"\x10" + request
        for request in (
            get,
            get + get,
            head + length + body,
            head + chunked + get,
            head + upgrade + length + body + get,
            head + b"Expect: 100-continue\r\n" + length + body,
            b"\r\n" + get,
        )
    ]


def _seeds_bus() -> list[bytes]:
    chain = "0" * 40
    seeds = [keepalive_record(1, 2, chain, 3, "open", "n1")]
    for frame in _FRAMES:
        for body in (frame, KEYS.seal(frame), KEYS.seal(frame, Position(1, 1, chain))):
            line = f"SR1 E 1 2 {chain} {chain} 3 {len(body)}\n"
            seeds.append(line.encode() + body)
        seeds.append(f"SR1 P 1 2 {chain} {chain} 3 {len(header_of(frame))}\n".encode())
    return seeds


def _seeds_peer_log() -> list[bytes]:
    chain = "0" * 40
    bodies = [KEYS.seal(frame, Position(1, 1, chain)) for frame in _FRAMES]
    rows = [dump_entry(1, n + 1, chain, chain, 5, each) for n, each in enumerate(bodies)]
    return [*rows, b"".join(rows)]


def _seeds_statement() -> list[bytes]:
    signer = Signer("n1", _IDENTITY, SECRET)
    return [signer.sign("presence 1", body).encode() for body in ("", '{"seq":1}', "ä" * 40)]


def _seeds_snapshot() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        own, given = Path(folder) / "own.sqlite", Path(folder) / "given.sqlite"
        storage = SQLiteStorage(own)
        encoder = HashEncoder(dim=8)
        storage.open(fingerprint=encoder.fingerprint, dim=8)
        storage.snapshot_to(given)
        storage.close()
        with closing(sqlite3.connect(given)) as raw:
            raw.execute("VACUUM")
        return [given.read_bytes()]


def _seeds_route_file() -> list[bytes]:
    routes = [{"name": "billing", "utterances": ["a", "b"], "threshold": 0.5, "payload": [1]}]
    lines = "\n".join(map(json.dumps, routes))
    yaml = "version: 1\nroutes:\n  - name: billing\n    utterances: [a, 'b']\n"
    foreign = {"encoder_type": "fastembed", "routes": [{"name": "x", "utterances": ["y"]}]}
    return [
        b"\x00" + json.dumps({"version": 1, "routes": routes}).encode(),
        b"\x00" + json.dumps(foreign).encode(),
        b"\x01" + yaml.encode(),
        b"\x01\xef\xbb\xbf" + yaml.encode(),
        b"\x02" + lines.encode(),
        *map(_seed_of_foreign_file, FOREIGN_FILES),
    ]


def _seed_of_foreign_file(name: str) -> bytes:
    content = FOREIGN_FILES[name][1]
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    body = content if isinstance(content, bytes) else content.encode()
    suffix = f".{name.rpartition('.')[2]}"
    same = {".yml": ".yaml", ".jsonl": ".ndjson", ".tsv": ".csv"}.get(suffix, suffix)
    return bytes([_SUFFIXES.index(same)]) + body


Target = tuple[Callable[[bytes], None], Callable[[], list[bytes]]]
TARGETS: dict[str, Target] = {
    "http": (fuzz_http, _seeds_http),
    "codec": (fuzz_codec, lambda: [*_FRAMES, *(b"\x01" + each[80:] for each in _FRAMES)]),
    "bus": (fuzz_bus, _seeds_bus),
    "peer_log": (fuzz_peer_log, _seeds_peer_log),
    "statement": (fuzz_statement, _seeds_statement),
    "snapshot": (fuzz_snapshot, _seeds_snapshot),
    "route_file": (fuzz_route_file, _seeds_route_file),
}
