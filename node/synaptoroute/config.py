"""Settings of a process: read once at its start, frozen, passed as arguments.

No other module reads the environment.  Every field has its unit in its name, a default,
limits, and a line in docs/operations.md, which is generated from the docstrings here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from synaptoroute.errors import ConfigError

DEFAULT_MODEL = "all-MiniLM-L6-v2-int8"
ENV_PREFIX = "SYNAPTOROUTE_"
_SPAN_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SPAN_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPAN_PROTOCOL = "http/protobuf"

Precision = Literal["auto", "float32", "int8"]
"""Arithmetic of the encoder's matrix products; part of the encoder's fingerprint.

``auto`` depends on the model and the providers, never on the machine, so that all nodes
choose alike: ``int8`` for the bundled model on the CPU, else ``float32``.
"""


class EngineConfig(BaseSettings):
    """Settings of one router: how it encodes, batches and scores.  Of the library and the node.

    Attributes:
        lanes: Encoder threads; 0 for as many as the container's CPU limit.
        lanes_nice: Niceness of the encoder threads, so that other threads run first; Linux only.
        writes_nice: Niceness of the thread that applies writes and of those that read the vectors
            of imports, so that threads that answer queries take a core from them; Linux only.
        batch_tokens_max: Most tokens of one encoder batch.
        batch_window_ms: How long an encoder thread waits for further queries; 0 never waits.
        queue_requests_max: Queries that may wait in the queue; further ones are refused.
        write_texts_max: Utterances of writes that may wait to be encoded.
        query_deadline_ms: Longest a query may take before it fails.
        embedding_cache_rows: Cached embeddings, by exact token sequence; 0 for no cache.
        unmatched_kept: How many of the newest queries that matched no route are kept in
            memory, for operators to read; 0 keeps none, as they contain text of users.
        import_idle_seconds: An open import to which nothing was added for this long is aborted.
            The author of a slow import says so every few seconds.
        node_name: Name of this node in its answers; empty for its stored identity.
        fit_confidence: Whether this node fits the numbers behind the confidence by itself when
            routes have changed enough.
        distil_tokens_max: Vocabulary up to which a node distils the cascade's table of its encoder
            in the background, if no node has one; 0 leaves it to ``model prepare``.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    lanes: int = Field(default=0, ge=0, le=256)
    lanes_nice: int = Field(default=0, ge=0, le=19)
    writes_nice: int = Field(default=0, ge=0, le=19)
    batch_tokens_max: int = Field(default=768, ge=16, le=65_536)
    batch_window_ms: float = Field(default=0.0, ge=0, le=1_000)
    queue_requests_max: int = Field(default=2_048, ge=1, le=1_000_000)
    write_texts_max: int = Field(default=100_000, ge=1, le=10_000_000)
    query_deadline_ms: int = Field(default=10_000, ge=1, le=600_000)
    embedding_cache_rows: int = Field(default=20_000, ge=0, le=10_000_000)
    unmatched_kept: int = Field(default=0, ge=0, le=10_000)
    import_idle_seconds: float = Field(default=900.0, ge=1, le=604_800)
    node_name: str = Field(default="", max_length=128)
    fit_confidence: bool = True
    distil_tokens_max: int = Field(default=65_536, ge=0, le=1_000_000)


class ClusterConfig(BaseSettings):
    """Settings of one router as a member of a cluster.  Of the library and the node.

    Attributes:
        advertise_url: Address at which other nodes reach this one; empty for a node that
            serves no peers, such as a router inside another program.
        bootstrap_expect: How many empty nodes must be present before they create a new log.
        recovery: What happens after Redis lost data.  ``safe``: writes stay closed until a
            majority of the voters has answered.  ``available``: after 10 s the voters that
            are present suffice, which may lose writes that a quorum had acknowledged.
        staleness_seconds_max: After this long without word from Redis or from a majority of
            the voters that its state is current, a node becomes unready.
        log_bytes_max: Bytes that the log in Redis may keep; a write that does not fit waits a
            moment for room and is then refused.  The same on all nodes.
        retain_bytes: Bytes of the log above which nodes trim what all live nodes hold.
        retain_entries: Entries of the log above which nodes trim what all live nodes hold.
        alone_seconds: A node that starts while neither Redis nor a majority of the voters
            answers becomes ready after this long, with the verified state that it holds.
        peer_urls: Addresses of peers, comma-separated, that a node asks while Redis is away,
            besides those that it has learned and kept.
        peer_secret_file: File of the secret that authenticates nodes to each other where there
            are no signing keys; without either, the secret is derived from the cluster's
            identity, which anyone who can read its Redis knows.
        identity_key_file: File of this node's private key (Ed25519, PEM); without one the node
            makes a key and keeps it beside its database.
        initial_identity_key_file: File of the private key (Ed25519, PEM) that a node keeps
            beside its database if it has none there yet; ignored if the file does not exist.
        clock_skew_seconds_max: Most that the time in another node's signed report may differ
            from Redis' clock; a report that differs more does not show a live node.
        peer_ca_file: Certificate authorities of the other nodes' certificates; a node
            process uses ``tls_client_ca`` by default, else those of the system.
        peer_cert_file: Client certificate that is shown to other nodes; a node process uses
            ``tls_cert`` by default.
        peer_key_file: Key of that certificate.
        allow_plain_peers: Also send requests to nodes with ``http://`` addresses, while TLS
            is being introduced; without TLS they are always allowed.
        genesis_file: File of the voters' public keys; with it a node takes a state from
            elsewhere only if a majority of these voters certifies its content.
        operator_public_key: Public key of the operator, 64 hexadecimal digits, if the genesis
            file does not name it; with it an epoch is opened without a majority, and voters
            are changed beyond replacements, only if the operator signed it.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    advertise_url: str = Field(default="", max_length=1_024)
    bootstrap_expect: int = Field(default=1, ge=1, le=99)
    recovery: Literal["safe", "available"] = "safe"
    staleness_seconds_max: float = Field(default=30.0, ge=1, le=86_400)
    log_bytes_max: int = Field(default=268_435_456, ge=1_024, le=1 << 40)
    retain_bytes: int = Field(default=67_108_864, ge=1_024, le=1 << 40)
    retain_entries: int = Field(default=100_000, ge=1, le=10_000_000)
    alone_seconds: float = Field(default=30.0, ge=0, le=86_400)
    peer_urls: str = Field(default="", max_length=16_384)
    peer_secret_file: Path | None = None
    identity_key_file: Path | None = None
    initial_identity_key_file: Path | None = None
    clock_skew_seconds_max: float = Field(default=60.0, ge=5, le=86_400)
    peer_ca_file: Path | None = None
    peer_cert_file: Path | None = None
    peer_key_file: Path | None = None
    allow_plain_peers: bool = False
    genesis_file: Path | None = None
    operator_public_key: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")


def _check_root_path(root_path: str) -> str:
    if root_path.split("/")[1:2] in (["v1"], ["peer"]):
        raise ValueError("must not begin like the paths of the API")
    return root_path


class HttpConfig(BaseSettings):
    """Settings of an HTTP server; the same for a node and a coordinator.

    Attributes:
        host: Address that the HTTP server listens on.
        insecure: Serve a public address without API keys.
        allowed_hosts: Names that the ``Host`` header may have, comma-separated; ``*.name``
            stands for all names below one, ``*`` for every name.  IP addresses and names
            without a dot always pass.  By default every name passes where API keys or
            ``insecure`` are set, else only the address that the server listens on.
        trusted_proxies: Addresses and networks in CIDR notation, comma-separated, of proxies
            whose ``X-Forwarded-For``, ``X-Forwarded-Proto``, ``X-Forwarded-Prefix`` and
            ``Forwarded`` headers count.
        proxy_protocol: Read a PROXY protocol header, version 1 or 2, from trusted proxies.
        root_path: Path prefix under which a proxy serves this process, such as ``/router``, if the
            proxy passes it on.  A trusted proxy that removes the prefix names it in
            ``X-Forwarded-Prefix`` instead.
        cors_origins: Origins of pages that may call the API from a browser, comma-separated,
            such as ``https://app.example``; ``*`` for every origin.
        cors_methods: Methods that these pages may use.
        cors_headers: Further request headers that these pages may send.
        cors_max_age_seconds: How long a browser may keep the answer to its preflight.
        connections_max: Connections at one time; idle ones make room for new ones.
        connections_per_address_max: Connections at one time of one address, or of one IPv6
            network of 64 bits; not of a trusted proxy, behind which requests are counted.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    insecure: bool = False
    allowed_hosts: str = Field(default="", max_length=8_192)
    trusted_proxies: str = Field(default="", max_length=8_192)
    proxy_protocol: bool = False
    root_path: Annotated[str, AfterValidator(_check_root_path)] = Field(
        default="", max_length=256, pattern=r"^(/[A-Za-z0-9_~][A-Za-z0-9._~\-]*)*$"
    )
    cors_origins: str = Field(default="", max_length=8_192)
    cors_methods: str = Field(default="GET,HEAD,POST,PUT,PATCH,DELETE", max_length=256)
    cors_headers: str = Field(default="", max_length=8_192)
    cors_max_age_seconds: int = Field(default=600, ge=0, le=86_400)
    connections_max: int = Field(default=8_192, ge=1, le=1_000_000)
    connections_per_address_max: int = Field(default=1_024, ge=1, le=1_000_000)


class NodeConfig(EngineConfig, ClusterConfig, HttpConfig):
    """Everything one node process needs.

    Attributes:
        port: TCP port of the HTTP server.
        model: A preset such as ``default`` or ``fast``, a name of fastembed's catalogue, or a
            local folder with an ONNX graph.
        encoder_precision: ``int8`` multiplies in integers, for the bundled model and for
            models that `model prepare --precision int8` packed; ``auto`` is ``int8`` for the
            bundled model, else ``float32``.  Must be the same on all nodes of a cluster.
        next_model: Second encoder, loaded beside the first, that the cluster may migrate to
            (see docs/coordinator.md); a database with its vectors is served with it.
        next_encoder_precision: Precision of the second encoder.
        model_cache_dir: Folder of downloaded models and of what `model prepare` made.
        table_dir: Folder of tables for encoders without one in the package or the model cache,
            such as a read-only folder of an image.
        providers: ONNX Runtime execution providers, comma-separated.
        database: Path of the SQLite file.
        sqlite_synchronous: ``full`` survives a power loss, ``normal`` a process kill.
        routes_file: Route file that is applied when an empty database is first started.
        api_keys_file: File of API keys, one per line:
            ``scope[,scope] sha256:hex name [attribute=value]``.
        first_api_key_file: File of API keys that a node makes for itself where it would refuse to
            start, on a public address without ``api_keys_file`` and ``insecure``: with one admin
            key, which it prints once.  The container image sets it.
        tls_cert: Certificate of the HTTP server, with intermediate certificates after it;
            the port then speaks HTTPS only.  Changed files are read within a second.
        tls_key: Private key of that certificate, not encrypted.
        tls_client_ca: Certificate authorities of client certificates; requests of other
            nodes then need a certificate of theirs.
        tls_client_auth: With a client CA, ``required`` refuses every connection without a
            client certificate; ``optional`` refuses only requests of other nodes without one.
        body_bytes_max: Largest request body, except for imports.
        import_bytes_max: Largest body of an import.
        shutdown_seconds: How long running requests may take after a stop signal.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``json`` or ``text``.
        log_queries: Write query texts to the log at debug level.
        redis_url: Address of the Redis server that orders writes; none for a standalone node.
        redis_bus_urls: Replicas of that server, comma-separated, at which this node listens and
            from which it reads entries; a Sentinel URL stands for the replicas of its service.
            Without one that works the node uses ``redis_url``.
        redis_password_file: File of the Redis password.
        redis_ca_file: File of the certificate authority of a ``rediss://`` server.
        redis_cert_file: File of the client certificate for Redis.
        redis_key_file: File of the client certificate's key.
        redis_sentinel_user: User of the Sentinels; empty for their default user.
        redis_sentinel_password_file: File of the Sentinels' password; none if they need none.
        redis_sentinel_tls: Use TLS with the Sentinels, with the certificates for Redis.
        signing_keys_file: File of the keys that sign entries; without it nothing is signed.
        allow_unsigned: Accept unsigned entries, while signing is being introduced.
        namespace: Name of the cluster's log on the Redis server.
        model_names: Further names of the route set, comma-separated, that `model` of a
            request to `/v1/decisions` or `/v1/systemone` may have.
        metrics_sets_max: Route sets that the metrics name, those that were created first; the
            others are added up under the label ``other``.
        metrics_routes_max: Routes that the metrics name, of all sets together, those that had an
            answer first; the others of a set are added up under the label ``other``. 0 shows
            no routes.
        otlp_headers_file: File of the credentials of the receiver of spans, in the form of
            ``OTEL_EXPORTER_OTLP_HEADERS``: ``name=value``, separated by commas.
        front_port: Second port, shared with other node processes on this host; 0 for none.
    """

    # A node shares its CPUs with its own HTTP server, which must go first under overload; a
    # router inside another program leaves priorities alone.
    lanes_nice: int = Field(default=4, ge=0, le=19)
    writes_nice: int = Field(default=6, ge=0, le=19)
    port: int = Field(default=8080, ge=0, le=65_535)
    model: str = DEFAULT_MODEL
    encoder_precision: Precision = "auto"
    next_model: str = ""
    next_encoder_precision: Precision = "auto"
    model_cache_dir: Path | None = None
    table_dir: Path | None = None
    providers: str = "CPUExecutionProvider"
    database: Path = Path("data/synaptoroute.sqlite")
    sqlite_synchronous: Literal["full", "normal"] = "full"
    routes_file: Path | None = None
    api_keys_file: Path | None = None
    first_api_key_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_client_auth: Literal["optional", "required"] = "optional"
    body_bytes_max: int = Field(default=16_777_216, ge=1_024, le=1_073_741_824)
    import_bytes_max: int = Field(default=1_073_741_824, ge=1_024, le=1 << 40)
    shutdown_seconds: float = Field(default=20.0, ge=0, le=600)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "text"
    log_queries: bool = False
    redis_url: SecretStr | None = None
    redis_bus_urls: SecretStr | None = None
    redis_password_file: Path | None = None
    redis_ca_file: Path | None = None
    redis_cert_file: Path | None = None
    redis_key_file: Path | None = None
    redis_sentinel_user: str = Field(default="", max_length=256)
    redis_sentinel_password_file: Path | None = None
    redis_sentinel_tls: bool = False
    signing_keys_file: Path | None = None
    allow_unsigned: bool = False
    namespace: str = Field(default="default", pattern=r"^[A-Za-z0-9_\-]{1,64}$")
    model_names: str = Field(default="", max_length=4_096)
    metrics_sets_max: int = Field(default=50, ge=0, le=10_000)
    metrics_routes_max: int = Field(default=100, ge=0, le=2_048)
    otlp_headers_file: Path | None = None
    front_port: int = Field(default=0, ge=0, le=65_535)


def is_tracing_requested() -> bool:
    """Whether OpenTelemetry's variables ask for traces.

    Raises:
        ConfigError: They ask for an exporter or a protocol that a server does not have.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    if exporter not in ("", "otlp"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER is {exporter!r}; a server has otlp and none")
    if not exporter and not any(os.environ.get(name) for name in _SPAN_ENDPOINTS):
        return False
    named = (os.environ[name] for name in _SPAN_PROTOCOLS if os.environ.get(name))
    protocol = next(named, _SPAN_PROTOCOL)
    if protocol.strip().lower() != _SPAN_PROTOCOL:
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, and spans are sent by {_SPAN_PROTOCOL} "
            "only: name that, and the HTTP port of the collector, 4318 by default"
        )
    return True


def requested_failpoint() -> str:
    """Step at which a test wants this process to crash, for ``failpoints``; empty for none."""
    return os.environ.get(f"{ENV_PREFIX}FAILPOINT", "")


def cpu_limit() -> int:
    """Return how many CPUs this process may use: the cgroup's quota before the host's count.

    Source: cgroup v2 ``cpu.max`` and v1 ``cpu.cfs_quota_us``; then the affinity mask.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    host_count = affinity or os.cpu_count() or 1
    quota = _cgroup_quota_cpus(Path("/sys/fs/cgroup"))
    # Rounded down: one thread more than the quota would stop all threads for a part of each
    # scheduling period.
    return host_count if quota is None else max(1, min(host_count, int(quota)))


def _cgroup_quota_cpus(root: Path) -> float | None:
    """Read the cgroup's CPU quota, in CPUs; None if there is none."""
    try:
        quota, period = (root / "cpu.max").read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass  # not cgroup v2
    try:
        v1 = root / "cpu"
        quota_us = int((v1 / "cpu.cfs_quota_us").read_text())
        period_us = int((v1 / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None
