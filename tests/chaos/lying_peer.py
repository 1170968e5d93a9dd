"""A peer that lies, as a process of its own: without the cluster secret, it has all the rest.

It has an identity, a row in Redis and, now and then, the address of a node that is down.  There it
answers whatever is asked: heads that claim more, op logs with entries of its own that continue the
asked position, snapshots with another content, certificates, digests.  What it is sent it writes
into a file, so that the run can look for secrets in it.

The run gives orders on the standard input, a line each: ``listen PORT``, ``leave``, ``lie PORT``
(to which Redis), ``rest``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import redis

from forgeries import forge_payload
from node_cluster import until
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import Ballot, DeleteRoute, Mutation, Position, Proposal, PutRoute
from synaptoroute.core.replica import make_entry
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.node_rows import PRESENCE
from synaptoroute.sequencer.peers import (
    CERTIFICATE_PATH,
    HEAD_PATH,
    LOG_PATH,
    POSITION_HEADER,
    ROWS_PATH,
    SHA_HEADER,
    SNAPSHOT_PATH,
    PeerHead,
    dump_entry,
    format_position,
    parse_position,
)
from synaptoroute.sequencer.wire import SigningKeys
from synaptoroute.trust.certificates import sign_content
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.documents import canonical, sign_document
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.requests import ANSWER, ANSWER_HEADER, Gatekeeper
from synaptoroute.trust.statements import Signer

FOREIGN = b"foreign"
"""The first bytes of the op_id of every entry that it makes up."""
FOREIGN_ROUTE = "foreign"
GUESSED_SECRET = b"x" * 40
PAUSE_SECONDS = 0.2
RECORD_BYTES_MAX = 8 << 20
Reply = tuple[bytes, Position, dict[str, str]]


# --- the side of the run ---------------------------------------------------------------------


@dataclass
class LyingPeer:
    """The process, for whoever runs it.

    Attributes:
        folder: What it keeps, and what it was sent.
        password: Of the user of Redis that it has.
    """

    folder: Path
    password: str
    _process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "chaos.lying_peer", str(self.folder), self.password]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=log, env=environment
            )

    def order(self, *words: str) -> None:
        """Tell it what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        self._process.stdin.flush()

    def take_database(self, path: Path) -> None:
        """Give it a copy of a node's database, as a former member has one."""
        target = self.folder / "new.sqlite"
        source, copied = sqlite3.connect(f"file:{path}?mode=ro", uri=True), sqlite3.connect(target)
        with closing(source), closing(copied):
            source.backup(copied)
        target.replace(self.folder / "copy.sqlite")

    @contextmanager
    def at(self, port: int) -> Iterator[None]:
        """Let it answer at a port until the block ends."""
        flag = self.folder / "listening"
        self.order("listen", str(port))
        until(flag.exists)
        try:
            yield
        finally:
            self.order("leave")
            until(lambda: not flag.exists())

    @property
    def received(self) -> bytes:
        """Everything that it was sent: lines, headers and bodies."""
        path = self.folder / "received"
        return path.read_bytes() if path.exists() else b""

    def requests_count(self, path: bytes) -> int:
        """How many requests it was sent for paths that begin so."""
        return self.received.count(b"\nREQUEST GET " + path)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()


# --- the process -------------------------------------------------------------------------------


class Liar:
    """The answers of the lying peer."""

    def __init__(self, folder: Path, password: str) -> None:
        self.folder, self.password = folder, password
        self.identity = NodeIdentity.generate()
        self.secret = ClusterSecret("default", {"k1": GUESSED_SECRET})
        self.signing_keys = SigningKeys("default", {"k1": GUESSED_SECRET})
        self.keys = Keys("default")
        self.record = (folder / "received").open("ab")
        self.url, self.claims = "", [b"liar"]
        self.cluster_id = self.epoch_id = ""
        self.head = Position(1, 1)
        self._counter = 0
        self._lock = threading.Lock()
        self._redis_port = 0
        threading.Thread(target=self._lie_forever, daemon=True).start()

    def signer(self, name: str) -> Signer:
        """Sign in a name with its own key and a guessed secret."""
        return Signer(name, self.identity, self.secret)

    @property
    def name(self) -> str:
        """The node that it claims to be: one whose address it took, if it can tell."""
        return self.claims[0].decode()

    def note(self, text: bytes) -> None:
        """Keep what it was sent."""
        with self._lock:
            if self.record.tell() < RECORD_BYTES_MAX:
                self.record.write(b"\nREQUEST " + text)
                self.record.flush()

    # --- Redis -----------------------------------------------------------------------------

    def lie_to(self, port: int) -> None:
        """Write rows to a Redis from now on; 0 ends it."""
        self._redis_port = port

    def _lie_forever(self) -> None:
        while True:
            time.sleep(PAUSE_SECONDS)
            if port := self._redis_port:
                with suppress(redis.RedisError, ValueError, KeyError):
                    self._lie_once(port)

    def _lie_once(self, port: int) -> None:
        url = f"redis://{self.password}:{self.password}@127.0.0.1:{port}/0"
        with redis.Redis.from_url(url, socket_timeout=2.0) as client:
            meta = {k.decode(): v.decode() for k, v in client.hgetall(self.keys.meta).items()}
            self.head = Position(int(meta["epoch"]), int(meta["seq"]), meta["chain"])
            self.cluster_id, self.epoch_id = meta["lineage"], meta["epoch_id"]
            rows = client.hgetall(self.keys.nodes)
            at = [name for name, row in rows.items() if json.loads(row).get("url") == self.url]
            self.claims = [*at, b"liar"]
            self._counter += 1
            for name, row in sorted(rows.items()):
                client.hset(self.keys.nodes, name, self._row(name, json.loads(row)))
                client.hset(self.keys.nodes, "liar", self._row(b"liar", json.loads(row)))
            client.zadd(self.keys.heartbeats, {"liar": time.time() * 1_000})

    def _row(self, name: bytes, genuine: dict[str, Any]) -> str:
        """A node's row with its own address, signed with its own key."""
        row = {key: value for key, value in genuine.items() if key != "signed"}
        row |= {"node_id": name.decode(), "url": self.url or "http://127.0.0.1:9"}
        row |= {"counter": row.get("counter", 0) + self._counter, "seq": self.head.seq + 5}
        return canonical(sign_document(self.signer(name.decode()), PRESENCE, row))

    # --- answers ---------------------------------------------------------------------------

    def reply(self, target: str) -> Reply:
        """Answer a request, whatever it proves."""
        parts = urlsplit(target)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        ahead = Position(self.head.epoch, self.head.seq + 5, "a" * 40)
        if parts.path.endswith("/nonce"):
            gatekeeper = Gatekeeper(self.signer(self.name), _nobody, "boot", self.url)
            document = gatekeeper.boot_document(asked.get("challenge", ""))
            return json.dumps(document).encode(), ahead, {}
        if parts.path == HEAD_PATH:
            head = PeerHead(self.name, self.cluster_id, ahead, Ballot(), self.epoch_id)
            return head.dump(), ahead, {}
        if parts.path == LOG_PATH:
            return self._log(asked), ahead, {}
        if parts.path == SNAPSHOT_PATH:
            return self._snapshot()
        if parts.path == CERTIFICATE_PATH:
            at = parse_position(asked.get("position", ""))
            said = sign_content(self.signer(self.name), self.cluster_id, at, "0" * 64)
            return said.encode(), ahead, {}
        body = {"digest": "0" * 32, "nodes": [], "routes": [{"name": FOREIGN_ROUTE}]}
        if parts.path == ROWS_PATH:
            body = {"position": format_position(ahead), "sums": [], "rows": []}
        return json.dumps(body).encode(), ahead, {}

    def _log(self, asked: dict[str, str]) -> bytes:
        """Entries of its own that continue the position that was asked for."""
        text = f"{asked.get('epoch', '1')}.{asked.get('seq', '1')}.{asked.get('chain', '')}"
        at, body = parse_position(text), b""
        vector = b"\0\0\x80?" * 64
        made: list[Mutation] = [PutRoute(FOREIGN_ROUTE, ("foreign",), (vector,))]
        made += [DeleteRoute(f"r{number}") for number in range(3)]
        for mutation in made:
            proposal = Proposal(FOREIGN + os.urandom(16 - len(FOREIGN)), mutation)
            frame = encode_proposal(proposal)
            entry = make_entry(at, frame, proposal, 1)
            sealed = self.signing_keys.seal(frame, at)
            body += dump_entry(entry.epoch, entry.seq, at.chain, entry.chain, 1, sealed)
            at = entry.position
        return body

    def _snapshot(self) -> Reply:
        """The state of a former member, with another content."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "given.sqlite"
            shutil.copy(self.folder / "copy.sqlite", path)
            forge_payload(path)
            with closing(sqlite3.connect(path)) as database:
                at = Position(*database.execute("SELECT epoch, seq, chain FROM meta").fetchone())
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            body = path.read_bytes()
        return body, at, {SHA_HEADER: hashlib.sha256(body).hexdigest()}

    def signature(self, body: bytes, at: Position) -> str:
        """Sign an answer as a node does, for no nonce of anybody."""
        digest = hashlib.sha256(body).hexdigest()
        fields = {"nonce": "0" * 32, "status": 200, "sha256": digest}
        fields |= {"position": format_position(at)}
        return canonical(sign_document(self.signer(self.name), ANSWER, fields))


def _nobody() -> Any:
    raise AssertionError("it verifies nobody")


class Handler(BaseHTTPRequestHandler):
    """Answers everything."""

    liar: Liar

    def do_any(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        line = f"{self.command} {self.path}\n{self.headers}".encode()
        self.liar.note(line + self.rfile.read(size))
        if "authorization" in self.headers:
            self.send_error(503)  # a client of the node that is down
            return
        try:
            body, at, headers = self.liar.reply(self.path)
        except Exception:
            self.send_error(503)
            return
        self.send_response(200)
        headers = {**headers, POSITION_HEADER: format_position(at)}
        headers[ANSWER_HEADER] = self.liar.signature(body, at)
        headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_any

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@contextmanager
def listening(liar: Liar, port: int) -> Iterator[ThreadingHTTPServer]:
    """Listen on a port until the block ends."""
    ThreadingHTTPServer.allow_reuse_address = True
    server = ThreadingHTTPServer(("127.0.0.1", port), type("Lies", (Handler,), {"liar": liar}))
    liar.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def obey(liar: Liar, orders: IO[str]) -> None:
    """Carry out orders until there are no more."""
    while line := orders.readline():
        word, *rest = line.split()
        if word == "lie":
            liar.lie_to(int(rest[0]))
        elif word == "rest":
            liar.lie_to(0)
        elif word == "listen":
            with listening(liar, int(rest[0])):
                (liar.folder / "listening").touch()
                while (line := orders.readline()) and line.split() != ["leave"]:
                    liar.lie_to(int(line.split()[1]) if line.startswith("lie") else 0)
            (liar.folder / "listening").unlink()


if __name__ == "__main__":
    obey(Liar(Path(sys.argv[1]), sys.argv[2]), sys.stdin)
