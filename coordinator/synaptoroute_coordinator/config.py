"""Settings of the coordinator: read once at its start, then frozen.

No other module reads the environment.  Every field has its unit in its name, a default, a
limit, and a line in docs/coordinator.md (a test compares the two).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from synaptoroute.config import HttpConfig

ENV_PREFIX = "SYNAPTOROUTE_COORDINATOR_"


class Policy(BaseSettings):
    """Settings of the coordinator.

    Attributes:
        retain_entries: How many of the newest entries the log keeps, while they have no more
            than ``retain_bytes``.
        retain_bytes: Bytes above which the log is trimmed to fewer entries.
        audit_seconds: Interval between audits, in which all nodes compare their digests; 0 for
            never.
        scrub_seconds: Interval between deep audits, which compare memory and disk row by row;
            0 for never.
        audit_wait_seconds: How long to wait for reports to an audit.
        is_repair_on: Whether a node that differs from the majority is told to resync.
        import_idle_seconds: An open import without a new chunk for this long is aborted.
        backup_seconds: Interval between backups; 0 for never.
        backups_kept: Number of backups to keep; older ones are deleted.
        lag_entries_max: A live node further behind raises an alarm.
        voter_missing_seconds: A voter that is silent for this long raises an alarm.
        is_voter_replacement_on: Whether a voter that is missing for that long is replaced by the
            node that came back at its address with an empty disk.
        log_bytes_max: Bytes that the log may keep, as set for the nodes.
        log_full_percent: An alarm is raised when the log is this full.
        alarm_raise_seconds: A warning is raised when its condition has lasted for this long; a
            critical alarm at once.
        alarm_clear_seconds: An alarm is cleared when its condition has been away for this long.
        drift_share: A route set whose share of answers without a route has risen by this much,
            or whose mean confidence has fallen by it, raises the alarm of drift; 0 for never.
        drift_window_seconds: Newest answers that are compared with the week before.
        drift_answers_min: Answers in that time without which a route set is not judged.
        traffic_bytes_max: Bytes that the saved history of traffic and alarms may have in Redis;
            0 keeps it in memory only.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    retain_entries: int = Field(default=10_000, ge=0, le=10_000_000)
    retain_bytes: int = Field(default=67_108_864, ge=1_024, le=1 << 40)
    audit_seconds: float = Field(default=60.0, ge=0, le=86_400)
    scrub_seconds: float = Field(default=3_600.0, ge=0, le=2_592_000)
    audit_wait_seconds: float = Field(default=10.0, ge=1, le=600)
    is_repair_on: bool = True
    import_idle_seconds: float = Field(default=900.0, ge=1, le=604_800)
    backup_seconds: float = Field(default=0.0, ge=0, le=2_592_000)
    backups_kept: int = Field(default=7, ge=1, le=1_000)
    lag_entries_max: int = Field(default=1_000, ge=1, le=10_000_000)
    voter_missing_seconds: float = Field(default=300.0, ge=1, le=86_400)
    is_voter_replacement_on: bool = True
    log_bytes_max: int = Field(default=268_435_456, ge=1_024, le=1 << 40)
    log_full_percent: float = Field(default=80.0, gt=0, le=100)
    alarm_raise_seconds: float = Field(default=5.0, ge=0, le=3_600)
    alarm_clear_seconds: float = Field(default=30.0, ge=0, le=86_400)
    drift_share: float = Field(default=0.1, ge=0, le=1)
    drift_window_seconds: float = Field(default=3_600.0, ge=900, le=43_200)
    drift_answers_min: int = Field(default=200, ge=20, le=1_000_000)
    traffic_bytes_max: int = Field(default=1_048_576, ge=0, le=16_777_216)


class CoordinatorConfig(Policy, HttpConfig):
    """All settings of one coordinator process.

    Attributes:
        port: Its TCP port.
        url: Public address of this coordinator; a standby refers to the active one by it.
        redis_url: Address of Redis.
        redis_password_file: File that holds its password.
        redis_ca_file: Certificate authority of a ``rediss://`` server.
        redis_cert_file: Client certificate for it.
        redis_key_file: Key of that certificate.
        redis_sentinel_user: User of the Sentinels; empty for their default user.
        redis_sentinel_password_file: File of the Sentinels' password; none if they need none.
        redis_sentinel_tls: Use TLS with the Sentinels, with the certificates for Redis.
        signing_keys_file: Keys that sign entries; without a file entries are not signed.
        allow_unsigned: Accept entries without a signature while keys are introduced.
        namespace: Name of the cluster's log on that server.
        identity_key_file: File of this coordinator's private key (Ed25519, PEM); without one it
            makes a key at each start.
        clock_skew_seconds_max: Most that the time in a node's signed report may differ from
            Redis' clock.
        peer_secret_file: Secret shared with the nodes, to fetch backups; without a file it is
            derived as the nodes do.
        otlp_headers_file: File of the credentials of the receiver of spans, in the form of
            ``OTEL_EXPORTER_OTLP_HEADERS``: ``name=value``, separated by commas.
        peer_ca_file: Certificate authorities of the nodes' certificates; ``tls_client_ca`` by
            default, else those of the system.
        peer_cert_file: Client certificate that is shown to nodes; ``tls_cert`` by default.
        peer_key_file: Key of that certificate.
        allow_plain_peers: Also send requests to nodes with ``http://`` addresses, while TLS is
            being introduced; without TLS they are always allowed.
        genesis_file: File of the voters' public keys; with it a backup is kept only if a
            majority of these voters certifies its content.
        node_key_file: File with the API key for requests to nodes.
        api_keys_file: File of API keys, one per line:
            ``scope[,scope] sha256:hex name [attribute=value]``.
        tls_cert: Certificate of the HTTP server, with intermediate certificates after it;
            the port then speaks HTTPS only.  Changed files are read within a second.
        tls_key: Private key of that certificate, not encrypted.
        tls_client_ca: Certificate authorities of client certificates.
        tls_client_auth: With a client CA, ``required`` refuses every connection without a
            client certificate; ``optional`` verifies one only if it is presented.
        folder: Folder of the audit log.
        backup_folder: Folder of backups; without one no backups are taken.
        backup_bucket: Instead of a folder, ``bucket`` or ``bucket/prefix`` of an S3-compatible
            store.
        backup_endpoint: Address of that store.
        backup_region: Region of that store.
        backup_key_file: File with the id of the access key and its secret.
        session_seconds: Duration of a dashboard session.
        shutdown_seconds: How long running requests may take after a stop signal.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``json`` or ``text``.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    port: int = Field(default=8090, ge=0, le=65_535)
    url: str = Field(default="", max_length=1_024)
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
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
    identity_key_file: Path | None = None
    clock_skew_seconds_max: float = Field(default=60.0, ge=5, le=86_400)
    peer_secret_file: Path | None = None
    otlp_headers_file: Path | None = None
    peer_ca_file: Path | None = None
    peer_cert_file: Path | None = None
    peer_key_file: Path | None = None
    allow_plain_peers: bool = False
    genesis_file: Path | None = None
    node_key_file: Path | None = None
    api_keys_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tls_client_auth: Literal["optional", "required"] = "optional"
    folder: Path = Path("data/coordinator")
    backup_folder: Path | None = None
    backup_bucket: str = Field(default="", max_length=512)
    backup_endpoint: str = Field(default="https://s3.amazonaws.com", max_length=1_024)
    backup_region: str = Field(default="us-east-1", pattern=r"^[a-z0-9\-]{1,64}$")
    backup_key_file: Path | None = None
    session_seconds: float = Field(default=43_200.0, ge=60, le=2_592_000)
    shutdown_seconds: float = Field(default=5.0, ge=0, le=600)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "text"
