"""`tls new` makes certificates that nodes and clients accept."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from synaptoroute.cli.app import app
from synaptoroute.web.tls import ServerTls, TlsFiles, names_of

pytestmark = pytest.mark.unit


def made(*arguments: object) -> dict[str, str]:
    result = CliRunner().invoke(app, ["tls", "new", "--json", *map(str, arguments)])
    assert 0 == result.exit_code, result.output
    found: dict[str, str] = json.loads(result.stdout)
    return found


def test_authority_is_made_once_and_certificates_each_time(tmp_path: Path) -> None:
    home = tmp_path / "authority"
    first = made("--authority", home, "--folder", tmp_path / "a", "--name", "a.example")
    authority = Path(first["ca"]).read_bytes()
    second = made("--authority", home, "--folder", tmp_path / "b", "--name", "::1")

    assert authority == Path(second["ca"]).read_bytes()
    assert ("a.example",) == names_of(Path(first["cert"]))
    assert ("::1",) == names_of(Path(second["cert"]))
    for files in (first, second):
        ServerTls(TlsFiles(Path(files["cert"]), Path(files["key"]), Path(files["ca"])))
        assert 0o600 == stat.S_IMODE(Path(files["key"]).stat().st_mode)
    assert 0o600 == stat.S_IMODE((home / "ca.key").stat().st_mode)


def test_the_printed_line_is_the_options_of_a_node(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tls", "new", "--folder", str(tmp_path), "--name", "n"])

    words = result.stdout.split()
    assert ["--tls-cert", "--tls-key", "--tls-client-ca"] == words[::2]
    assert all(Path(path).is_file() for path in words[1::2])


def test_a_broken_authority_is_reported(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("junk")
    result = CliRunner().invoke(app, ["tls", "new", "--folder", str(tmp_path), "--name", "n"])

    assert 2 == result.exit_code
