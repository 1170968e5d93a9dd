"""``synaptoroute restore``: a database out of a backup."""

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
    backup: Annotated[Path, typer.Argument(help="The backup's .sqlite or .json file.")],
    database: Annotated[Path, typer.Option(help="Where the node's database is made.")],
    as_json: AsJson = False,
) -> None:
    """Make a node's database out of a backup, verified row by row.

    The file that is there already is never overwritten. A node that starts with it
    serves it on its own, or fills an empty Redis from it: then it is the only voter, and
    the other nodes join with empty databases.
    """
    file, manifest = read_manifest(backup)
    if database.exists():
        raise BadUsage(f"{database} exists: move it away first")
    with waiting("Restoring ..."):
        if sha256_of(file) != manifest["sha256"]:
            raise CheckFailed(f"{file} is not what its manifest says: it was altered")
        shown = install(file, manifest, database)
    if as_json:
        print_json(shown)
    else:
        print_line(f"{shown['routes']} routes at {shown['version']}, digest {shown['digest']}")


def read_manifest(backup: Path) -> tuple[Path, dict[str, Any]]:
    """Find a backup's file and what is said of it.

    Raises:
        BadUsage: One of the two is missing or malformed.
    """
    file, described = backup.with_suffix(".sqlite"), backup.with_suffix(".json")
    if not backup.name.endswith((".sqlite", ".json")):
        file = backup.with_name(backup.name + ".sqlite")
        described = backup.with_name(backup.name + ".json")
    try:
        with described.open("rb") as opened:
            manifest: Any = json.loads(opened.read(MANIFEST_BYTES_MAX))
        needed = {"sha256": str, "encoder": str, "dim": int, "version": str}
        is_whole = all(type(manifest[name]) is kind for name, kind in needed.items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadUsage(f"{described} is not the manifest of a backup: {error}") from error
    if not is_whole or not file.is_file():
        raise BadUsage(f"{backup} is not a whole backup")
    return file, manifest


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
    return digest.hexdigest()


def install(file: Path, manifest: dict[str, Any], database: Path) -> dict[str, Any]:
    """Take a snapshot over into a new database, verified.

    Raises:
        CheckFailed: It holds another position than its manifest says.
        StorageCorrupt: Its rows do not match its digest.
    """
    from synaptoroute.replication.recovery import CLUSTER_ID_KEY
    from synaptoroute.storage import SQLiteStorage

    storage = SQLiteStorage(database)
    try:
        storage.open(fingerprint=manifest["encoder"], dim=manifest["dim"])
        stored = storage.install(file)
        snapshot = stored.snapshot
        if str(snapshot.position.revision) != manifest["version"]:
            raise CheckFailed(f"the backup stands at {snapshot.position.revision}")
        # With an empty Redis this node founds the cluster anew; the others join it empty.
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
