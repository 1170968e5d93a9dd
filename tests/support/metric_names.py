"""Which series a node exposes: asked of the code that makes them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from synaptoroute.config import EngineConfig
from synaptoroute.encoder import EncoderStats, HashEncoder
from synaptoroute.models import Match
from synaptoroute.replication.readiness import Readiness
from synaptoroute.replication.session import FollowerCounts, FollowerStatus, LogState
from synaptoroute.router.reads import node_status
from synaptoroute.router.route_sets import SetFigures
from synaptoroute.server.metrics import Metrics
from synaptoroute.server.traffic import RouteTraffic
from synaptoroute.web.api_keys import KeysStatus
from synaptoroute.web.tls import ServerTls, TlsFiles
from tls_files import TestTls

_TYPE = re.compile(r"^# TYPE (\S+) ", re.MULTILINE)
_SERIES = re.compile(r"^([a-z][a-z0-9_]*)[{ ]", re.MULTILINE)


def exposition() -> str:
    """Return /metrics of a cluster member that has answered and encoded something."""
    encoder = HashEncoder(8)
    follower = FollowerStatus(
        log_state=LogState.OPEN,
        replica_state="live",
        detail="",
        is_caught_up=True,
        is_alone=False,
        head="1.1",
        log_bytes=100,
        log_bytes_max=1_000,
        lag_entries=0,
        staleness_ms=10,
        readiness=Readiness.FOLLOWING,
        peers=2,
        role="voter",
        is_bus_live=True,
        counts=FollowerCounts(),
        orphans_count=0,
    )
    status = replace(
        node_status("ready", None, None, None, encoder, EngineConfig()), follower=follower
    )
    decided = replace(status.counters.decisions, reasons=(("matched", 1),))
    status = replace(status, counters=replace(status.counters, decisions=decided))
    encoder.close()
    metrics = Metrics()
    metrics.count_response("POST", "/v1/query", 200, 0.01)
    metrics.batch(1, 8, 0.01)
    metrics.watch_cached_responses(lambda: 0)
    metrics.watch_keys(lambda: KeysStatus(1, 0, None, "", ""))
    metrics.watch(lambda: (status, EncoderStats()))
    with TemporaryDirectory() as folder:
        files = TestTls.make(Path(folder))
        tls = ServerTls(TlsFiles(files.cert, files.key))
    metrics.watch_certificates(lambda: (tls, None))
    traffic = RouteTraffic()
    traffic.count(Match(route="a", reason="matched", confidence=0.9, version="1.1"))
    metrics.watch_sets(lambda: [SetFigures("default", 0, 1, 2, 3)], traffic, 1, 1)
    return metrics.render(has_sets=True).decode()


def families(text: str) -> set[str]:
    """Names of the metrics in such a text, as documents write them."""
    return {name for name in _TYPE.findall(text) if not name.endswith("_created")}


def series(text: str) -> set[str]:
    """Names of the series in such a text, as expressions write them."""
    return set(_SERIES.findall(text))
