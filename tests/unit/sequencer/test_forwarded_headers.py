"""Headers that a coordinator passes to a node keep their bytes."""

from __future__ import annotations

import asyncio

import pytest

from synaptoroute.sequencer.proven_http import ProvenHttp, Target
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier

pytestmark = pytest.mark.unit

NOTE = "Zurück – «ruhig»"


async def test_header_of_utf8_arrives_with_the_same_bytes() -> None:
    """A server reads headers as Latin-1, whatever their bytes stand for."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    secret = ClusterSecret("default", {"a": b"s" * 32})
    signer = Signer("n1", NodeIdentity.generate(), secret)
    http = ProvenHttp(lambda: signer, lambda: Verifier(secret))
    target = Target(f"http://127.0.0.1:{port}")
    headers = {"sr-note": NOTE.encode().decode("latin-1")}
    async with server, http.open_plain("PUT", target, "/", headers=headers) as response:
        assert 200 == response.status
    await http.close()

    assert b"sr-note: " + NOTE.encode() + b"\r\n" in heads[0]
