"""Settings of the coordinator: read once at its start, frozen, passed down.

No other module reads the environment.  Every field has its unit in its name, a
default, a limit, and a line in docs/coordinator.md (a test compares the two).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "SYNAPTOROUTE_COORDINATOR_"


class Policy(BaseSettings):
    """What the fleet shall look like, and how often somebody looks.

    Attributes:
        retain_entries: Newest entries that are never trimmed from the log.
        audit_seconds: How often all nodes compare their digests; 0 for never.
        scrub_seconds: How often an audit has them compare memory and disk, row by
            row; 0 for never.
        audit_wait_seconds: How long reports to an audit are waited for.
        is_repair_on: Whether a node that differs from the majority is told to resync.
        import_idle_seconds: An open import without a new chunk for so long is aborted.
        backup_seconds: How often a backup is taken; 0 for never.
        backups_kept: Older backups are deleted.
        lag_entries_max: A live node further behind raises an alarm.
        voter_missing_seconds: A voter silent for so long raises an alarm.
        log_bytes_max: Bytes the log may keep; the nodes' own limit.
        log_full_percent: The log raises an alarm when it is so full.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    retain_entries: int = Field(default=10_000, ge=0, le=10_000_000)
    audit_seconds: float = Field(default=60.0, ge=0, le=86_400)
    scrub_seconds: float = Field(default=3_600.0, ge=0, le=2_592_000)
    audit_wait_seconds: float = Field(default=10.0, ge=1, le=600)
    is_repair_on: bool = True
    import_idle_seconds: float = Field(default=900.0, ge=1, le=604_800)
    backup_seconds: float = Field(default=0.0, ge=0, le=2_592_000)
    backups_kept: int = Field(default=7, ge=1, le=1_000)
    lag_entries_max: int = Field(default=1_000, ge=1, le=10_000_000)
    voter_missing_seconds: float = Field(default=300.0, ge=1, le=86_400)
    log_bytes_max: int = Field(default=268_435_456, ge=1_024, le=1 << 40)
    log_full_percent: float = Field(default=80.0, gt=0, le=100)


class CoordinatorConfig(Policy):
    """Everything one coordinator process needs.

    Attributes:
        host: Address the HTTP server listens on.
        port: Its TCP port.
        url: Where people reach this coordinator; named to those who ask a standby.
        redis_url: Address of the sequencer.
        redis_password_file: File that holds its password.
        redis_ca_file: Certificate authority of a ``rediss://`` server.
        redis_cert_file: Client certificate for it.
        redis_key_file: Key of that certificate.
        signing_keys_file: Keys by which entries are signed; none signs nothing.
        allow_unsigned: Accept entries without a signature while keys are introduced.
        namespace: Name of the cluster's log on that server.
        peer_secret_file: The nodes' own secret, to take backups; none derives it as
            the nodes do.
        node_key_file: File that holds the API key by which nodes are asked.
        api_keys_file: File of API keys, one ``scope[,scope] sha256-hex name`` a line.
        insecure: Serve a public address without API keys.
        folder: Where the record of actions is kept.
        backup_folder: Where backups are kept; none takes none.
        backup_bucket: Instead, ``bucket`` or ``bucket/prefix`` of an S3-compatible store.
        backup_endpoint: Address of that store.
        backup_region: Region that requests to it name.
        backup_key_file: File that holds the identity of its access key and the secret.
        session_seconds: How long a session of the dashboard lasts.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``json`` or ``text``.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8090, ge=0, le=65_535)
    url: str = Field(default="", max_length=1_024)
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_password_file: Path | None = None
    redis_ca_file: Path | None = None
    redis_cert_file: Path | None = None
    redis_key_file: Path | None = None
    signing_keys_file: Path | None = None
    allow_unsigned: bool = False
    namespace: str = Field(default="default", pattern=r"^[A-Za-z0-9_\-]{1,64}$")
    peer_secret_file: Path | None = None
    node_key_file: Path | None = None
    api_keys_file: Path | None = None
    insecure: bool = False
    folder: Path = Path("data/coordinator")
    backup_folder: Path | None = None
    backup_bucket: str = Field(default="", max_length=512)
    backup_endpoint: str = Field(default="https://s3.amazonaws.com", max_length=1_024)
    backup_region: str = Field(default="us-east-1", pattern=r"^[a-z0-9\-]{1,64}$")
    backup_key_file: Path | None = None
    session_seconds: float = Field(default=43_200.0, ge=60, le=2_592_000)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "text"
