"""What to do about the fleet: a pure function of the view, the policy and what was done.

actions  what may be done, as values
memory   what was done, and when
plan     view + policy + memory -> actions
"""

from synaptoroute_coordinator.plan.actions import (
    AbortImport,
    Action,
    Judge,
    Repair,
    StartAudit,
    TakeBackup,
    Trim,
)
from synaptoroute_coordinator.plan.controller_state import Memory, OpenImport, PendingAudit
from synaptoroute_coordinator.plan.plan import plan

__all__ = [
    "AbortImport",
    "Action",
    "Judge",
    "Memory",
    "OpenImport",
    "PendingAudit",
    "Repair",
    "StartAudit",
    "TakeBackup",
    "Trim",
    "plan",
]
