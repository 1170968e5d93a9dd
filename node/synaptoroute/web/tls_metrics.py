"""Prometheus metrics of certificates and TLS handshakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from synaptoroute.web.tls import HANDSHAKE_FAILURES, ClientTls, ServerTls

ReadCertificates = Callable[[], tuple[ServerTls | None, ClientTls | None]]


class TlsCollector(Collector):
    """Reads the certificates of a process at each scrape; empty for plain HTTP."""

    def __init__(self, prefix: str, read: ReadCertificates) -> None:
        self._prefix = prefix
        self._read = read

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        server, client = self._read()
        sides = [each for each in (server, client) if each is not None]
        if not sides:
            return
        expiry = GaugeMetricFamily(
            f"{self._prefix}tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, Unix time.",
            labels=("certificate",),
        )
        reloads = CounterMetricFamily(
            f"{self._prefix}tls_reloads",
            "Changed TLS files that were taken over or refused.",
            labels=("certificate", "result"),
        )
        for each in sides:
            if each.expires_at:
                expiry.add_metric((each.name,), each.expires_at)
            reloads.add_metric((each.name, "taken"), each.reloads)
            reloads.add_metric((each.name, "refused"), each.reload_failures)
        yield expiry
        yield reloads
        if server is None:
            return
        failures = CounterMetricFamily(
            f"{self._prefix}tls_handshake_failures",
            "Connections that ended before their TLS handshake did.",
            labels=("reason",),
        )
        for reason in HANDSHAKE_FAILURES:
            failures.add_metric((reason,), server.handshake_failures.get(reason, 0))
        yield failures
