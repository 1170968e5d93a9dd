"""The fleet as values: heartbeats and figures folded into one view.  Pure.

view       nodes and log at one moment
telemetry  figures of a node, from its metrics
verdict    what an audit says of each node
alarms     what an operator should be woken for
events     what changed between two views
"""

from synaptoroute_coordinator.fleet.alarms import Alarm, alarms_of
from synaptoroute_coordinator.fleet.events import Event, Tone, changes
from synaptoroute_coordinator.fleet.telemetry import Sample, Telemetry, parse_sample, telemetry_of
from synaptoroute_coordinator.fleet.verdict import Verdict, judge_audit
from synaptoroute_coordinator.fleet.view import FleetView, LogView, NodeView, fold

__all__ = [
    "Alarm",
    "Event",
    "FleetView",
    "LogView",
    "NodeView",
    "Sample",
    "Telemetry",
    "Tone",
    "Verdict",
    "alarms_of",
    "changes",
    "fold",
    "judge_audit",
    "parse_sample",
    "telemetry_of",
]
