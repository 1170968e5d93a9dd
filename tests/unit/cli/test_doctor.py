"""doctor finds what would not work, and changes nothing."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from ports import free_port
from servers import Server
from synaptoroute.cli.app import app
from synaptoroute.cli.commands.doctor import (
    check_cpu_flags,
    check_database,
    check_disk,
    check_encoder,
    check_port,
    check_redis,
    check_secrets,
    check_tls,
)
from synaptoroute.config import NodeConfig
from synaptoroute.encoder import HashEncoder, fast_encoder, open_encoder, processor
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage
from tls_files import EXPIRED, TestTls

pytestmark = pytest.mark.unit

HASH = HashEncoder(64)
OURS = (HASH.fingerprint, HASH.dim)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A sound database with one route."""
    path = tmp_path / "node.sqlite"
    router = AdaptiveRouter(HASH, SQLiteStorage(path))
    router.add_route(Route(name="a", utterances=["one", "two"]))
    router.close()
    return path


def test_sound_database_is_ok_and_unchanged(database: Path) -> None:
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    finding = check_database(database, OURS)

    assert (finding.state, "1 routes, 2 utterances" in finding.what) == ("ok", True)
    assert before == hashlib.sha256(database.read_bytes()).hexdigest()


def test_secrets_that_others_can_read_are_found(tmp_path: Path, database: Path) -> None:
    keys, authority = tmp_path / "keys", tmp_path / "ca.pem"
    for path in (keys, authority):
        path.touch(mode=0o600)
    authority.chmod(0o644)
    config = NodeConfig(database=database, api_keys_file=keys, redis_ca_file=authority)
    sound = check_secrets(config)
    keys.chmod(0o644)
    open_to_all = check_secrets(config)

    assert "ok" == sound.state
    assert ("warn", f"chmod 600 {keys}") == (open_to_all.state, open_to_all.advice)


def test_vectors_of_another_encoder_are_found(database: Path) -> None:
    """A node with that encoder would refuse the database."""
    finding = check_database(database, ("0" * 64, 64))

    assert finding.state == "fail"
    assert "migrate" in finding.advice


def test_vectors_of_the_former_fast_model_are_a_warning(tmp_path: Path) -> None:
    """A node with ``fast`` goes on with them."""
    path = tmp_path / "node.sqlite"
    router = AdaptiveRouter(open_encoder(fast_encoder.DISTILLED.name), SQLiteStorage(path))
    router.add_route(Route(name="a", utterances=["one", "two"]))
    router.close()
    fast = fast_encoder.fingerprint_of(fast_encoder.FITTED), fast_encoder.DIM

    finding = check_database(path, fast)

    assert ("warn", True) == (finding.state, fast_encoder.DISTILLED.name in finding.what)
    assert "model migrate" in finding.advice


def test_damaged_database_is_reported_and_not_moved(database: Path) -> None:
    """Only a node moves it aside."""
    content = bytearray(database.read_bytes())
    place = content.find(b"two")
    content[place : place + 3] = b"owt"
    database.write_bytes(content)

    assert check_database(database, OURS).state == "fail"
    assert bytes(content) == database.read_bytes()


def test_missing_database_is_ok(tmp_path: Path) -> None:
    """The first start creates it."""
    assert check_database(tmp_path / "new.sqlite", OURS).state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_port_in_use_is_a_warning() -> None:
    """It may be a node of the same user."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert check_port("127.0.0.1", port).state == "warn"
    assert check_port("127.0.0.1", free_port()).state == "ok"


def test_disk_of_a_missing_folder_is_that_of_its_parent(tmp_path: Path) -> None:
    assert str(tmp_path) in check_disk(tmp_path / "a" / "b" / "node.sqlite").what


def test_cpu_without_vector_instructions_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "CPU_INFO", info)
    monkeypatch.setattr(processor, "kind_of_cpu", lambda: processor.kind_of(info.read_text()))
    info.write_text("flags\t\t: fpu sse sse2\n", encoding="utf-8")
    assert check_cpu_flags().state == "warn"

    info.write_text("flags\t\t: fpu sse avx2\n", encoding="utf-8")
    assert check_cpu_flags().what == "avx2: avx2"


def test_redis_is_checked_with_its_password(start_server: Callable[..., Server]) -> None:
    """The right password, a wrong one, none, and no server."""
    server = start_server("valkey", requirepass="secret", appendonly="yes")
    urls = {
        f"redis://:secret@127.0.0.1:{server.port}/0": set(),
        f"redis://:wrong@127.0.0.1:{server.port}/0": {"redis_credentials_refused"},
        server.url: {"redis_credentials_refused"},
        f"redis://127.0.0.1:{free_port()}/0": {"redis_unreachable"},
        f"redis+sentinel://127.0.0.1:{free_port()}/routes": {
            "redis_sentinel_unreachable",
            "redis_sentinel_no_master",
            "redis_unreachable",
        },
        f"ftp://127.0.0.1:{server.port}/0": {"redis_settings"},
    }
    for url, codes in urls.items():
        results = check_redis(NodeConfig(redis_url=SecretStr(url)))
        assert codes == {each.code for each in results if each.state != "ok"}, url


def test_redis_is_checked_with_the_password_file(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server("valkey", requirepass="secret", appendonly="yes")
    path = tmp_path / "password"
    path.write_text("secret\n")
    with_file = NodeConfig(redis_url=SecretStr(server.url), redis_password_file=path)
    without = NodeConfig(redis_url=SecretStr(server.url), redis_password_file=tmp_path / "absent")

    assert {"ok"} == {each.state for each in check_redis(with_file)}
    assert ["redis_settings"] == [each.code for each in check_redis(without)]


def test_replicas_of_the_settings_are_checked(start_server: Callable[..., Server]) -> None:
    server = start_server("valkey", appendonly="yes")
    urls = f"{server.url}, redis://127.0.0.1:{free_port()}/0"
    config = NodeConfig(redis_url=SecretStr(server.url), redis_bus_urls=SecretStr(urls))
    codes = [each.code for each in check_redis(config)]

    assert ["redis_replica_followed", "redis_replica_unreachable"] == codes[-2:]


def test_one_redis_is_checked_by_its_url(start_server: Callable[..., Server]) -> None:
    """The JSON output has the stable codes; the exit code says whether nodes would work."""
    server = start_server("redis", appendonly="yes", maxmemory_policy="allkeys-lru")
    sound = CliRunner().invoke(app, ["doctor", "--json", "--redis", server.url])
    away = CliRunner().invoke(
        app, ["doctor", "--json", "--redis", f"redis://127.0.0.1:{free_port()}/0"]
    )
    found = {each["code"]: each["state"] for each in json.loads(sound.stdout)}

    assert 0 == sound.exit_code
    assert "warn" == found["redis_eviction"]
    assert "ok" == found["redis_commands"]
    assert all(code.startswith("redis_") for code in found)
    assert 1 == away.exit_code
    assert "fail" == json.loads(away.stdout)[0]["state"]


def test_model_without_numbers_is_to_be_prepared() -> None:
    """The bundled one has numbers that ship."""
    _, known = check_encoder(NodeConfig())
    _, other = check_encoder(NodeConfig(model="test-hash-72"))

    assert known.state == "ok"
    assert other.state == "warn"
    assert "synaptoroute model prepare test-hash-72" in other.advice


def test_doctor_exits_with_one_when_a_check_fails(tmp_path: Path) -> None:
    """The failure is in the message and in the JSON output."""
    environment = {
        "SYNAPTOROUTE_MODEL": str(tmp_path / "absent"),
        "SYNAPTOROUTE_DATABASE": str(tmp_path / "x.sqlite"),
    }
    result = CliRunner().invoke(app, ["doctor", "--json"], env=environment)
    failed = [each["name"] for each in json.loads(result.stdout) if each["state"] == "fail"]

    assert (result.exit_code, failed) == (1, ["encoder"])


def tls_settings(files: TestTls, url: str = "") -> NodeConfig:
    return NodeConfig(
        tls_cert=files.cert, tls_key=files.key, tls_client_ca=files.ca, advertise_url=url
    )


@pytest.mark.parametrize(
    ("days", "url", "state", "found"),
    [
        (90, "https://node-1.routes.svc:8080", "ok", "90 days left"),
        (90, "https://node.example:8080", "fail", "not for node.example"),
        (5, "https://127.0.0.1:8080", "warn", "5 days left"),
        (-1, "https://127.0.0.1:8080", "fail", "expired"),
    ],
)
def test_certificates_are_for_the_advertised_name_and_have_days_left(
    tmp_path: Path, days: int, url: str, state: str, found: str
) -> None:
    validity = EXPIRED * -days + (timedelta(minutes=5) if days > 0 else timedelta())
    files = TestTls.make(tmp_path, "*.routes.svc", "127.0.0.1", validity=validity)

    result = check_tls(tls_settings(files, url))

    assert state == result.state
    assert found in result.what


def test_a_key_of_another_certificate_fails(tmp_path: Path) -> None:
    files, other = TestTls.make(tmp_path / "a"), TestTls.make(tmp_path / "b")
    files.key.write_bytes(other.key.read_bytes())

    assert "fail" == check_tls(tls_settings(files)).state


def test_redis_is_checked_over_tls(start_server: Callable[..., Server], tmp_path: Path) -> None:
    files = TestTls.make(tmp_path / "a")
    port = free_port()
    start_server(
        "redis",
        tls_port=str(port),
        tls_cert_file=str(files.cert),
        tls_key_file=str(files.key),
        tls_ca_cert_file=str(files.ca),
        tls_auth_clients="no",
    )
    url = SecretStr(f"rediss://127.0.0.1:{port}/0")

    trusted = check_redis(NodeConfig(redis_url=url, redis_ca_file=files.ca))
    stranger = check_redis(NodeConfig(redis_url=url))

    assert "redis_transport" in {each.code for each in trusted if each.state == "ok"}
    assert ["redis_certificate_refused"] == [each.code for each in stranger]
