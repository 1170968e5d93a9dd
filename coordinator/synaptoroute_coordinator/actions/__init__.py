"""What the coordinator does in the world: to the log, to nodes, to backups.

acts     actions carried out against the log, under the lease
nodes    HTTP to the nodes
backups  snapshots kept on a shelf
shelves  where files are kept: a folder
bucket   or a bucket of an S3-compatible store
record   who did what, when
"""

from synaptoroute_coordinator.actions.audit_log import Record, Recorded
from synaptoroute_coordinator.actions.backup_store import FolderShelf, Shelf
from synaptoroute_coordinator.actions.backups import Backup, Backups, fetch_backup
from synaptoroute_coordinator.actions.bucket import BucketShelf, read_credentials
from synaptoroute_coordinator.actions.executor import Acts, Done
from synaptoroute_coordinator.actions.nodes import NodeAnswer, Nodes

__all__ = [
    "Acts",
    "Backup",
    "Backups",
    "BucketShelf",
    "Done",
    "FolderShelf",
    "NodeAnswer",
    "Nodes",
    "Record",
    "Recorded",
    "Shelf",
    "fetch_backup",
    "read_credentials",
]
