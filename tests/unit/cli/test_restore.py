"""``synaptoroute restore``: whose backups it accepts, and what it says about the others."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from forgeries import forge_payload
from histories import DIM, FINGERPRINT, opened, rich_history
from synaptoroute.cli.app import app
from synaptoroute.snapshot_file import read_content
from synaptoroute.trust.certificates import Certificate, manifest_mac, sign_content
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.genesis import dump_genesis
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer

pytestmark = pytest.mark.unit

SECRET = ClusterSecret("default", {"a": b"s" * 32})
VOTERS = [Signer(name, NodeIdentity.generate(), SECRET) for name in ("n1", "n2", "n3")]


class Backup:
    """A backup with its manifest, and the files that prove its origin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "backup.sqlite"
        with closing(opened(folder / "donor.sqlite")) as donor:
            rich_history(donor)
            donor.snapshot_to(self.file)
        self.content = read_content(self.file)
        self.keys_file = folder / "keys"
        self.keys_file.write_text("a " + "s" * 32 + "\n")
        self.genesis_file = folder / "genesis.json"
        keys = {each.name: each.public_key for each in VOTERS}
        self.genesis_file.write_text(dump_genesis("default", keys))
        self.manifest: dict[str, Any] = {}
        self.certify(VOTERS[:2])

    def certify(self, voters: list[Signer], *, root: str = "", secret: Any = SECRET) -> None:
        """Write the manifest with a certificate of some voters."""
        at, root = self.content.position, root or self.content.root
        statements = tuple(sign_content(each, "c", at, root) for each in voters)
        certificate = Certificate("c", at, root, statements).dump() if voters else None
        self.manifest = {
            "sha256": hashlib.sha256(self.file.read_bytes()).hexdigest(),
            "encoder": FINGERPRINT,
            "dim": DIM,
            "version": str(at.revision),
            "lineage": "c",
            "root": root,
            "certificate": certificate,
        }
        self.seal(secret)

    def seal(self, secret: ClusterSecret | None = SECRET) -> None:
        """Authenticate the manifest and write it."""
        self.manifest.pop("mac", None)
        if secret is not None:
            self.manifest["mac"] = manifest_mac(secret, self.manifest)
        (self.folder / "backup.json").write_text(json.dumps(self.manifest))

    def restore(self, *options: str, with_keys: bool = True, with_genesis: bool = False) -> Any:
        """Run the command; its result."""
        words = ["restore", str(self.file), "--database", str(self.folder / "new.sqlite"), "--json"]
        words += ["--signing-keys-file", str(self.keys_file)] if with_keys else []
        words += ["--genesis-file", str(self.genesis_file)] if with_genesis else []
        return CliRunner().invoke(app, [*words, *options])

    def refused(self, **options: bool) -> str:
        """Restore, expect the refusal, and return its message."""
        result = self.restore(**options)
        assert result.exit_code == 1
        assert not (self.folder / "new.sqlite").exists()
        assert "backup_unverified" in result.output
        return str(result.output)


@pytest.fixture
def backup(tmp_path: Path) -> Backup:
    return Backup(tmp_path)


@pytest.mark.parametrize("with_genesis", [False, True])
def test_certified_backup_is_restored(backup: Backup, with_genesis: bool) -> None:
    # The file names the voters of the test's history, which are other ones.
    result = backup.restore(with_keys=with_genesis, with_genesis=True)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["is_verified"] is True


def test_backup_of_another_namespace_names_the_option(backup: Backup) -> None:
    """The code of the manifest depends on the namespace, which a restore cannot guess."""
    result = backup.restore("--namespace", "other")

    assert "--namespace" in result.output
    assert "'other'" in result.output


def test_forged_backup_is_refused(backup: Backup) -> None:
    """A file with matching checksums and a manifest that fits it, but without the secret."""
    forge_payload(backup.file)
    backup.certify(VOTERS[:2], root=backup.content.root, secret=None)
    assert "holder of the cluster secret" in backup.refused()


def test_forged_backup_of_a_holder_of_the_secret_is_refused(backup: Backup) -> None:
    forge_payload(backup.file)
    backup.certify(VOTERS[:2], root=backup.content.root)
    assert "not what the voters certified" in backup.refused(with_genesis=True)


def test_invented_voters_are_refused(backup: Backup) -> None:
    forge_payload(backup.file)
    invented = [Signer(each.name, NodeIdentity.generate(), SECRET) for each in VOTERS]
    backup.certify(invented, root=read_content(backup.file).root)
    assert "not a voter" in backup.refused(with_genesis=True)


@pytest.mark.parametrize("count", [0, 1])
def test_backup_without_a_majority_is_refused(backup: Backup, count: int) -> None:
    backup.certify(VOTERS[:count])
    assert "majority" in backup.refused(with_genesis=True)


@pytest.mark.parametrize("name", ["sha256", "version", "lineage", "root", "certificate", "encoder"])
def test_altered_manifest_is_refused(backup: Backup, name: str) -> None:
    backup.manifest[name] = None if name == "certificate" else "x"
    (backup.folder / "backup.json").write_text(json.dumps(backup.manifest))
    result = backup.restore(with_genesis=True)
    assert result.exit_code != 0
    assert not (backup.folder / "new.sqlite").exists()


def test_proof_is_not_ignored_without_a_key(backup: Backup) -> None:
    assert "--signing-keys-file" in backup.refused(with_keys=False)


def test_unverified_backup_is_accepted_on_request(backup: Backup) -> None:
    backup.certify([], secret=None)
    result = backup.restore("--allow-unverified")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["is_verified"] is False


def test_backup_of_a_cluster_without_a_secret_is_restored(backup: Backup) -> None:
    """Nothing can be verified then; the command says so."""
    backup.certify([], secret=None)
    result = backup.restore(with_keys=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["is_verified"] is False


def test_altered_file_is_refused_in_any_case(backup: Backup) -> None:
    with backup.file.open("r+b") as file:
        file.seek(5_000)
        file.write(b"x")
    result = backup.restore("--allow-unverified")
    assert result.exit_code != 0
    assert "altered" in result.output
