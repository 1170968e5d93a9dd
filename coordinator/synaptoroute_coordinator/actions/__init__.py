"""What the coordinator does in the world: to the log, to nodes, to backups.

acts     actions carried out against the log, under the lease
nodes    HTTP to the nodes
backups  snapshots kept in a folder
record   who did what, when
"""

from synaptoroute_coordinator.actions.acts import Acts, Done
from synaptoroute_coordinator.actions.backups import Backup, Backups
from synaptoroute_coordinator.actions.nodes import NodeAnswer, Nodes
from synaptoroute_coordinator.actions.record import Record, Recorded

__all__ = ["Acts", "Backup", "Backups", "Done", "NodeAnswer", "Nodes", "Record", "Recorded"]
