"""``synaptoroute restore``: make a database from a backup."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from synaptoroute.cli.exit_codes import BadUsage, CheckFailed
from synaptoroute.cli.options import AsJson
from synaptoroute.cli.terminal import print_json, print_line, waiting

MANIFEST_BYTES_MAX: Final = 65_536
_PART_BYTES: Final = 1 << 20


def restore(
    backup: Annotated[Path, typer.Argument(help="The .sqlite or .json file of the backup.")],
    database: Annotated[Path, typer.Option(help="Database to create.")],
    as_json: AsJson = False,
) -> None:
    """Make a node's database from a backup, verified row by row.

    An existing file is never overwritten. A node that starts with the database serves it
    alone, or fills an empty Redis from it: then it is the only voter, and the other nodes
    join with empty databases.
    """
    file, manifest = read_manifest(backup)
    if database.exists():
        raise BadUsage(f"{database} already exists: move it away first")
    with waiting("Restoring ..."):
        # Before anything is written: an altered backup must leave no database behind.
        if sha256_of(file) != manifest["sha256"]:
            raise CheckFailed(f"{file} does not match its manifest: it was altered")
        result = install(file, manifest, database)
    if as_json:
        print_json(result)
    else:
        print_line(f"{result['routes']} routes at {result['version']}, digest {result['digest']}")


def read_manifest(backup: Path) -> tuple[Path, dict[str, Any]]:
    """Find the file and the manifest of a backup."""
    file, manifest_file = backup.with_suffix(".sqlite"), backup.with_suffix(".json")
    if not backup.name.endswith((".sqlite", ".json")):
        file = backup.with_name(backup.name + ".sqlite")
        manifest_file = backup.with_name(backup.name + ".json")
    try:
        with manifest_file.open("rb") as opened:
            manifest: Any = json.loads(opened.read(MANIFEST_BYTES_MAX))
        needed = {"sha256": str, "encoder": str, "dim": int, "version": str}
        is_complete = all(type(manifest[name]) is kind for name, kind in needed.items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadUsage(f"{manifest_file} is not the manifest of a backup: {error}") from error
    if not is_complete or not file.is_file():
        raise BadUsage(f"{backup} is not a complete backup")
    return file, manifest


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()


def install(file: Path, manifest: dict[str, Any], database: Path) -> dict[str, Any]:
    """Install a snapshot into a new database, verified."""
    from synaptoroute.replication.session import CLUSTER_ID_KEY
    from synaptoroute.storage import SQLiteStorage

    storage = SQLiteStorage(database)
    try:
        storage.open(fingerprint=manifest["encoder"], dim=manifest["dim"])
        stored = storage.install(file)
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
            "digest": stored.sums.hex(),
            "routes": len(snapshot.routes),
        }
    finally:
        storage.close()
