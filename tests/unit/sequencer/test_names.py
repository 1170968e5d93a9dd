"""Names of peers that are gone delay nothing but the questions to these peers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from synaptoroute.errors import ClusterError
from synaptoroute.sequencer import names as names_module
from synaptoroute.sequencer.names import PeerNames
from synaptoroute.sequencer.proven_http import ProvenHttp
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier

pytestmark = pytest.mark.unit


class Resolver:
    """Stands in for the C library: names that begin with ``gone`` hang until ``heal``."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._is_healed = threading.Event()
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        self.asked[str(host)] += 1
        if str(host).startswith("gone"):
            self._is_healed.wait(10)
            raise socket.gaierror(socket.EAI_AGAIN, "no server has answered")
        return self._real(host, port, *args, **options)

    def heal(self) -> None:
        self._is_healed.set()
        for thread in threading.enumerate():
            if thread.name == "peer-name":
                thread.join(10)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.heal()


async def refused(names: PeerNames, host: str) -> str:
    with pytest.raises(ClusterError) as error:
        await names.find(host, 0.02)
    return error.value.message


async def test_name_that_hangs_is_looked_up_once_at_a_time(resolver: Resolver) -> None:
    names = PeerNames()
    for _ in range(20):
        assert "was not found within" in await refused(names, "gone-1")

    assert {"gone-1": 1} == resolver.asked
    await names.find("localhost", 5.0)
    resolver.heal()
    await asyncio.sleep(0)
    with pytest.raises(ClusterError, match="no server has answered"):
        await names.find("gone-1", 5.0)


async def test_requests_give_the_loop_no_name_that_is_not_found(resolver: Resolver) -> None:
    secret = ClusterSecret("default", {"a": b"s" * 32})
    signer = Signer("n1", NodeIdentity.generate(), secret)
    http = ProvenHttp(lambda: signer, lambda: Verifier(secret))
    for _ in range(3):
        with pytest.raises(ClusterError, match="does not answer") as error:
            await http.boot("http://gone-2:8080", 0.02)
        assert "not_taken" == error.value.fields["outcome"]
    await http.close()

    assert {"gone-2": 1} == resolver.asked


async def test_found_name_and_addresses_are_not_looked_up_again(resolver: Resolver) -> None:
    names = PeerNames()
    for host in ("127.0.0.1", "::1", "localhost", "localhost"):
        await names.find(host, 5.0)

    assert {"localhost": 1} == resolver.asked


async def test_look_ups_at_once_are_limited(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_module, "LOOKUPS_MAX", 2)
    names = PeerNames()
    await refused(names, "gone-1")
    await refused(names, "gone-2")

    assert "too many names" in await refused(names, "gone-3")
    assert 2 == len(resolver.asked)
