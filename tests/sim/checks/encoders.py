"""One encoder: the log names it, every node holds its vectors and nobody else's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from synaptoroute.core.digest import row_hash
from synaptoroute.core.table import RouteTable

Encoder = tuple[str, int]


def strange(
    named: Encoder,
    held: Mapping[str, Encoder],
    tables: Mapping[str, Iterable[RouteTable]],
    vectors: Mapping[str, bytes],
) -> list[str]:
    """What is of another encoder than the log's, once all is healed.

    Args:
        named: Fingerprint and dimension that the header of the log names.
        held: The same, as each node's database has it.
        tables: The route sets of each node, with the hashes of their rows.
        vectors: What each encoder makes of any text, by fingerprint.
    """
    found = [
        f"{node} holds vectors of {encoder[0][:4]}, the log names {named[0][:4]}"
        for node, encoder in held.items()
        if encoder != named
    ]
    for node, sets in tables.items():
        vector = vectors[held[node][0]]
        for table in sets:
            rows = [row for route in table.routes.values() for row in route.rows()]
            found += [
                f"{node} shows '{text}' with a vector of another encoder"
                for slot, owner, text in rows
                if table.row_hashes[slot] != row_hash(slot, owner, text, vector)
            ]
    return found
