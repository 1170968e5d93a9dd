"""Forged states: files that pass every check which needs no voter."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from synaptoroute.core.change import RouteRecord
from synaptoroute.core.digest import Digest, route_hash
from synaptoroute.core.mutation import Revision
from synaptoroute.storage.loader import read_meta
from synaptoroute.storage.records import meta_row

FORGED_PAYLOAD = '"forged"'


def forge_payload(path: Path) -> str:
    """Give the first route of a snapshot file another payload; return the route's name.

    Digest and checksums match afterwards, position and hash chain are those of the original.
    """
    with closing(sqlite3.connect(path)) as connection:
        route_id, name, threshold, metadata, payload, epoch, seq = connection.execute(
            "SELECT route_id, name, threshold, metadata, payload, epoch, seq FROM route"
            " ORDER BY name LIMIT 1"
        ).fetchone()
        at = Revision(epoch, seq)
        before = RouteRecord(route_id, name, (), (), threshold, metadata, payload, at)
        digest = Digest()
        meta = read_meta(connection)
        digest.add(int(meta.digest, 16).to_bytes(16, "little"))
        digest.remove(route_hash(before))
        digest.add(route_hash(before._replace(payload=FORGED_PAYLOAD)))
        connection.execute(
            "UPDATE route SET payload = ? WHERE route_id = ?", (FORGED_PAYLOAD, route_id)
        )
        row = meta_row(replace(meta, digest=digest.hex()))
        connection.execute("DELETE FROM meta")
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO meta VALUES (1, {marks})", row)
        connection.commit()
    return str(name)


def forge_tail(path: Path) -> None:
    """Replace the bytes of an entry in the op log of a snapshot file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "UPDATE oplog SET frame = (SELECT frame FROM oplog ORDER BY seq LIMIT 1)"
            " WHERE seq = (SELECT max(seq) FROM oplog)"
        )
        connection.commit()
