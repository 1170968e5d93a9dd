"""Answers of a server and of its model, cut to what both must say alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.epochs import LogCheck, RefillEntry
from synaptoroute.sequencer.scripts import Head, NoLog


def held_of(entry: Any) -> RefillEntry:
    """An entry as an op log keeps it."""
    return RefillEntry(
        entry.epoch, entry.seq, entry.time_us, entry.prev_chain, entry.chain, entry.frame
    )


def kind_of(placed: Any) -> Any:
    """An outcome without its words."""
    return getattr(placed, "reason", placed)


def label_of(answer: Any) -> str:
    """A word for an answer."""
    if isinstance(answer, Reason):
        return answer.value
    return str(getattr(answer, "outcome", getattr(answer, "reason", type(answer).__name__)))


def shown(head: Head | NoLog) -> Any:
    """A head without clocks and bytes."""
    if isinstance(head, NoLog):
        return "no log"
    return replace(head, time_us=0, kept_bytes=0, cluster_id="", role="master", torn="")


def shown_read(result: Any) -> Any:
    """What was read, without clocks; of a hole, only that it is one."""
    entries = [(entry.position, entry.frame) for entry in result.entries]
    return result.coverage, result.head, result.floor, result.state, result.epoch_id, entries


def shown_log_check(log_check: LogCheck) -> Any:
    """A log check with its reports in order; why a stream is torn may be worded otherwise."""
    reports = sorted(log_check.reports, key=lambda each: each.node_id)
    return reports, log_check.kept, bool(log_check.damage), sorted(log_check.silent)
