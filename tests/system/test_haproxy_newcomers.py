"""Goal: a name that resolves before its node listens costs no query.

Method: a real HAProxy with the file as it is shipped; real nodes, and addresses where nothing
listens yet. The first check is far away, as it is from a name that has just been resolved.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from haproxies import configuration, haproxy
from node_cluster import cluster_on, until
from ports import free_port
from servers import Server

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

CHECKS = "inter 1s fastinter 500ms downinter 500ms"
NO_CHECKS = "inter 60s fastinter 60s downinter 60s"
QUERIES = 60
CLIENTS = 12


@pytest.mark.parametrize("newcomers", [2, 5])
def test_nodes_that_do_not_listen_yet_cost_no_query(
    newcomers: int, tmp_path: Path, valkey_server: Server
) -> None:
    """They have the fewest connections, so every attempt goes to one of them first."""
    with cluster_on(tmp_path, valkey_server, 2) as cluster:
        cluster.put(0, "r1")
        cluster.settle()
        nodes = [member.process.port for member in cluster.members]
        port = free_port()
        text = configuration(nodes + [free_port() for _ in range(newcomers)], port)
        assert CHECKS in text
        folder = tmp_path / "door"
        folder.mkdir()
        with haproxy(text.replace(CHECKS, NO_CHECKS), folder, {"NODES_MAX": "9"}):
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(trust_env=False, timeout=30) as client:
                until(lambda: _is_open(client, url))

                def query(_: int) -> int:
                    return client.post(f"{url}/v1/query", json={"text": "r1 one"}).status_code

                with ThreadPoolExecutor(CLIENTS) as pool:
                    answered = Counter(pool.map(query, range(QUERIES)))

        found = (folder / "haproxy.log").read_text()
    assert {200: QUERIES} == answered
    assert "L4 unsuccessful connection" in found, "no newcomer was asked"


def _is_open(client: httpx.Client, url: str) -> bool:
    """Whether HAProxy listens; it answers this path itself."""
    try:
        return client.get(f"{url}/metrics").status_code == 404
    except httpx.TransportError:
        return False
