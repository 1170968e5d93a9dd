"""The node's durable state: one SQLite file with rows, log, outcomes and position.

``sqlite`` is the interface to the rest of the node and composes the others.  ``database``
opens a file and holds its connection; ``writer`` writes entries, ``sets`` copies and removes
route sets, ``loader`` reads and verifies a whole state, with the rows of the ``checkpoint`` if
there is one.  Slots, owners and keys of all route sets share the tables, see ``core.rows``.
``snapshots`` exports and installs states, ``re_embedding`` replaces all vectors,
``maintenance`` writes checkpoints and scrubs, ``corruption`` finds and quarantines corrupt
files.  The others build on ``connection``, ``records`` and ``schema.sql``.
"""

import synaptoroute.installation  # noqa: F401  raises where another project's files are mixed in
from synaptoroute.storage.loader import gc_paused
from synaptoroute.storage.re_embedding import ReEmbedding, ReEmbeddingProgress
from synaptoroute.storage.records import LogRow, Orphan, SlotRow, Stored
from synaptoroute.storage.sqlite import SQLiteStorage

__all__ = [
    "LogRow",
    "Orphan",
    "ReEmbedding",
    "ReEmbeddingProgress",
    "SQLiteStorage",
    "SlotRow",
    "Stored",
    "gc_paused",
]
