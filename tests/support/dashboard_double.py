"""A coordinator that knows a large fleet and is one thread: for the pages of many nodes and routes.

It serves the files of the dashboard with the headers of the coordinator, and documents that the
functions of the coordinator make from values.  No node, no Redis, no clock: a view is sent when a
test asks for it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fleet_views import fleet, head, policy, seen
from synaptoroute_coordinator.app.dashboard import load_assets
from synaptoroute_coordinator.app.responses import cluster_document, traffic_document
from synaptoroute_coordinator.app.runtime import CONTENT_POLICY
from synaptoroute_coordinator.events import Alarm
from synaptoroute_coordinator.fleet import FleetView, Telemetry
from synaptoroute_coordinator.fleet_history import FleetHistory
from synaptoroute_coordinator.traffic import TrafficHistory

PAGE_ROUTES = 500
EVENTS = 400
EVENT = {"kind": "joined", "tone": "good", "message": "a node joined", "node": ""}
KEEPALIVE_SECONDS = 0.2
SCOPES = ["read", "write", "admin"]
ALARMS = (
    Alarm("drift", "warning", "answers without a route rose", sets=("support@1",), since_ms=1),
    Alarm("lag", "warning", "1 nodes are behind", since_ms=1, is_over=True),
)
PAST = {"code": "node_gone", "severity": "warning", "message": "1 of 100 nodes are silent"}


class LargeFleet:
    """Documents of a fleet.

    Args:
        nodes: How many.
        routes: How many in the set ``default``.
    """

    def __init__(self, nodes: int, routes: int) -> None:
        self.names = [f"route-{number:04d}" for number in range(routes)]
        self.nodes = [f"{number:032x}" for number in range(nodes)]
        self.step, self.is_away = 0, False
        self._streams: list[queue.Queue[str | None]] = []
        now_seconds = time.time()
        self._history, self._traffic = FleetHistory(now_seconds), TrafficHistory(now_seconds - 9e5)
        self._now_seconds = now_seconds
        pairs = [
            {"set": "default", "route": name, "answers": 9, "confidence_sum": 8.0}
            for name in (*self.names, None)
        ]
        counts = {"began_at_ms": int(now_seconds * 1_000) - 1_000, "pairs": pairs}
        self._traffic.add({"a": counts}, now_seconds)
        for minutes in range(60):
            self._history.add(self._view(), now_seconds - 60 * (59 - minutes))

    def _view(self) -> FleetView:
        """A view; each step changes the load of one node."""
        load = {
            node: Telemetry(f"node-{number}", True, 10.0 + (number == 7) * self.step, 1.0, 2.0)
            for number, node in enumerate(self.nodes)
        }
        rows = [seen(node, 90 if number == 3 else 100) for number, node in enumerate(self.nodes)]
        return fleet(*rows, at=head(voters=tuple(self.nodes[:3])), telemetry=load)

    def view(self) -> dict[str, Any]:
        """The document of ``/v1/cluster``."""
        reconciler = SimpleNamespace(
            view=self._view(),
            alarms=ALARMS,
            log=SimpleNamespace(trust_mode="open"),
            lease=SimpleNamespace(owner="x#1", is_active=True),
        )
        document = cluster_document(reconciler, policy())  # type: ignore[arg-type]
        return {**document, "log_state": "away"} if self.is_away else document

    def next_view(self) -> None:
        """Send a view in which one node has another load."""
        self.step += 1
        self.send()

    def send_missed_answer(self) -> None:
        """Send a view without an answer of Redis and, in the same packet, the next one."""
        self.is_away = True
        away = json.dumps(self.view())
        self.is_away = False
        self.step += 1
        for each in self._streams:
            each.put(f"{away}\n\nevent: view\ndata: {json.dumps(self.view())}")

    def send(self) -> None:
        """Send the view as it is."""
        for each in self._streams:
            each.put(json.dumps(self.view()))

    def end(self) -> None:
        """End the streams."""
        for each in self._streams:
            each.put(None)

    def stream(self) -> Iterator[str]:
        """Views for one client; an empty text from time to time, to find that it is gone."""
        views: queue.Queue[str | None] = queue.Queue()
        self._streams.append(views)
        view: str | None = json.dumps(self.view())
        while view is not None:
            yield view
            try:
                view = views.get(timeout=KEEPALIVE_SECONDS)
            except queue.Empty:
                view = ""

    def document(self, path: str, asked: dict[str, str]) -> dict[str, Any] | None:
        """The document of a path; None if there is none."""
        now = self._now_seconds
        match path:
            case "/v1/session":
                return {"needs_key": False, "name": None, "scopes": SCOPES, "namespace": ""}
            case "/v1/cluster":
                return self.view()
            case "/v1/cluster/history":
                return self._history.document(asked.get("range", "1h"), now)
            case "/v1/traffic":
                name = asked.get("range", "1h")
                found = self._traffic.traffic_of("default", name, now)
                sets = self._traffic.sets(name, now)
                return traffic_document("default", found, sets, self._traffic, 50)
            case "/v1/alarms":
                past = [{**PAST, "since_ms": 1, "until_ms": 2}]
                return {"alarms": self.view()["alarms"], "past": past}
            case "/v1/propagation":
                names = [f"node-{number}" for number in range(len(self.nodes))]
                entries = [[100 - n, 5.0 + n] for n in range(10)]
                return {"head": 100, "nodes": [{"name": n, "entries": entries} for n in names]}
            case "/v1/log":
                entry = {"kind": "put route", "subject": "a"}
                return {"entries": [{**entry, "seq": 100 - n} for n in range(10)]}
            case "/v1/routes":
                return self._routes(asked)
            case "/v1/actions":
                return {"actions": []}
            case "/v1/backups":
                return {"is_on": False, "backups": []}
            case "/v1/history":
                return {"entries": [], "next_before": 0}
            case "/v1/orphans":
                return {"orphans": []}
        return None

    def _routes(self, asked: dict[str, str]) -> dict[str, Any]:
        later = [name for name in self.names if name > asked.get("after", "")]
        shown = [
            {"name": name, "utterances": [f"{name} text {n}" for n in range(10)], "payload": None}
            for name in later[:PAGE_ROUTES]
        ]
        return {"routes": shown, "next_after": later[PAGE_ROUTES - 1] if len(later) > 500 else ""}


@contextmanager
def serve(found: LargeFleet) -> Iterator[str]:
    """Serve the dashboard of a fleet on loopback; yields its address."""
    assets = load_assets()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.path == "/v1/events":
                self._stream()
                return
            name = address.path.removeprefix("/assets/") if address.path != "/" else "index.html"
            if name in assets:
                self._send(200, assets[name][0], assets[name][1])
                return
            asked = {key: values[0] for key, values in parse_qs(address.query).items()}
            document = found.document(address.path, asked)
            body = json.dumps(document or {"code": "not_found", "detail": "nothing is here"})
            self._send(200 if document is not None else 404, body.encode(), "application/json")

        def _send(self, status: int, body: bytes, media_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Security-Policy", CONTENT_POLICY.decode())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            with contextlib.suppress(OSError):  # the page was closed
                for number in range(EVENTS):
                    event = {**EVENT, "number": number, "at_ms": number}
                    self.wfile.write(f"event: event\ndata: {json.dumps(event)}\n\n".encode())
                for view in found.stream():
                    self.wfile.write(
                        f"event: view\ndata: {view}\n\n".encode() if view else b":\n\n"
                    )

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        found.end()
        server.shutdown()
        server.server_close()
        thread.join()
