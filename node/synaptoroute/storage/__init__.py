"""The node's durable state: one SQLite file with rows, log, outcomes and position.

The files of this room: ``sqlite`` is its face; ``schema`` and ``schema.sql`` the tables;
``connection`` who may write and what errors mean; ``records`` the values and their text
form; ``writer`` puts entries in; ``loader`` reads and verifies a whole state from ``rows``,
``outcomes`` and, where it helps, the ``checkpoint`` with its ``checkpoint_header``;
``keeper`` writes that and scrubs;
``damage``, ``wal`` and ``aside`` find damage and put it out of the way; ``install`` moves
states between files, behind the ``gate``;
``orphans`` keeps what a recovery left behind; ``generation`` replaces all vectors at once;
``lock`` keeps a second process out.
"""

from synaptoroute.storage.generation import Generation
from synaptoroute.storage.loader import collector_at_rest
from synaptoroute.storage.orphans import Orphan
from synaptoroute.storage.records import LogRow, SlotRow, Stored
from synaptoroute.storage.sqlite import SQLiteStorage

__all__ = [
    "Generation",
    "LogRow",
    "Orphan",
    "SQLiteStorage",
    "SlotRow",
    "Stored",
    "collector_at_rest",
]
