"""Reads and verifies a backup, and makes a node's database from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from synaptoroute.cli.exit_codes import BadUsage, CheckFailed
from synaptoroute.errors import ProtocolError

MANIFEST_BYTES_MAX: Final = 131_072
_PART_BYTES: Final = 1 << 20


class BackupUnverified(CheckFailed):
    """A backup whose origin is not proven; ``--allow-unverified`` accepts it."""

    code = "backup_unverified"


def read_manifest(backup: Path) -> tuple[Path, dict[str, Any]]:
    """Find the file and the manifest of a backup."""
    file, manifest_file = backup.with_suffix(".sqlite"), backup.with_suffix(".json")
    is_named = backup.name.endswith((".sqlite", ".json"))
    if not is_named and backup.exists():
        raise BadUsage(f"{backup} is not a backup: name its .sqlite or its .json file")
    if not is_named:
        file = backup.with_name(backup.name + ".sqlite")
        manifest_file = backup.with_name(backup.name + ".json")
    try:
        with manifest_file.open("rb") as opened:
            manifest: Any = json.loads(opened.read(MANIFEST_BYTES_MAX))
        needed = {"sha256": str, "encoder": str, "dim": int, "version": str}
        is_complete = all(type(manifest[name]) is kind for name, kind in needed.items())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadUsage(f"{manifest_file} is not the manifest of a backup: {error}") from error
    if not is_complete or not file.is_file():
        raise BadUsage(f"{backup} is not a complete backup")
    return file, manifest


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_origin(
    file: Path,
    manifest: dict[str, Any],
    namespace: str,
    keys_file: Path | None,
    genesis_file: Path | None,
) -> str:
    """Verify who made a backup, and that its content is what the voters certified.

    Args:
        file: The snapshot file.
        manifest: Its manifest.
        namespace: Namespace of the cluster that it is of.
        keys_file: The cluster secret (``signing_keys_file``), if there is one.
        genesis_file: The genesis file, if there is one.

    Returns:
        The content root that the file must have; empty if nothing can be verified, because the
        backup is of a cluster without a secret.

    Raises:
        BackupUnverified: The proof is missing, or it proves something else.
    """
    # Imported here: these libraries would slow down the start of every other command.
    from synaptoroute.snapshot_file import read_content
    from synaptoroute.trust.certificates import Electorate, check_certificate, is_manifest_mac
    from synaptoroute.trust.cluster_secret import ClusterSecret
    from synaptoroute.trust.genesis import read_genesis
    from synaptoroute.trust.statements import Verifier
    from synaptoroute.trust.voters import verify_chain

    is_checked = keys_file is not None or genesis_file is not None
    document = manifest.get("certificate")
    if not is_checked:
        if document is None and not manifest.get("mac"):
            return ""
        raise BackupUnverified(
            "the backup carries a proof of its origin: name the key file of the cluster "
            "(--signing-keys-file) or its genesis file (--genesis-file)"
        )
    secret = ClusterSecret.load(namespace, keys_file)
    if secret and not is_manifest_mac(secret, manifest):
        raise BackupUnverified(
            "the manifest was not written by a holder of the cluster secret in the namespace "
            f"{namespace!r}; --namespace names another"
        )
    if document is None:
        raise BackupUnverified("no majority of the voters has certified the backup")
    content = read_content(file)
    verifier = Verifier(secret)
    if genesis_file is not None:
        genesis = read_genesis(genesis_file, namespace).values()
        # A chain of changes in the file proves itself: a majority agreed to each.
        keys, _ = verify_chain(content.voter_links, verifier, genesis, "")
        electorate = Electorate(keys=keys)
    else:
        electorate = Electorate.of_names(content.voters, content.voter_keys)
    try:
        certificate = check_certificate(document, verifier, electorate)
    except ProtocolError as error:
        raise BackupUnverified(f"the certificate of the backup is not valid: {error}") from error
    if (certificate.position, certificate.root) != (content.position, content.root):
        raise BackupUnverified("the content of the backup is not what the voters certified")
    return content.root


def install(file: Path, manifest: dict[str, Any], database: Path, root: str = "") -> dict[str, Any]:
    """Install a snapshot into a new database, verified.

    Args:
        file: The snapshot file.
        manifest: Its manifest.
        database: The database; it must not exist.
        root: The content root that the file must have; empty for any.
    """
    from synaptoroute.replication.session import CLUSTER_ID_KEY
    from synaptoroute.storage import SQLiteStorage

    storage = SQLiteStorage(database)
    try:
        storage.open(fingerprint=manifest["encoder"], dim=manifest["dim"])
        stored = storage.install(file, root=root or None)
        snapshot = stored.snapshot
        if str(snapshot.position.revision) != manifest["version"]:
            raise CheckFailed(
                f"the backup is at {snapshot.position.revision}, not at its manifest's position"
            )
        # With an empty Redis this node starts the cluster anew, so it must be the only
        # voter: votes of nodes that are gone would keep a recovery waiting for ever.
        storage.set_sole_voter()
        storage.meta_set(CLUSTER_ID_KEY, str(manifest.get("lineage") or "") or None)
        return {
            "database": str(database),
            "version": str(snapshot.position.revision),
            "digest": stored.digest,
            "routes": stored.routes_count,
        }
    finally:
        storage.close()
