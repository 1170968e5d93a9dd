"""Every path that brings entries or files into a node, and what verifies it there.

The test finds the calls in the code.  A new path fails until somebody has named what verifies
it, so that no path without authentication can come in unnoticed.
"""

from __future__ import annotations

import ast

import pytest

from repository import ROOT, SOURCE_ROOTS, python_files

pytestmark = pytest.mark.tidy

PATHS = {
    # Frames become entries in one function, after ``SigningKeys.open`` has verified the seal.
    "sequencer/wire.py:_entry:Entry": "called with what SigningKeys.open returned",
    "sequencer/wire.py:_entry:decode_proposal": "called with what SigningKeys.open returned",
    "sequencer/wire.py:_record_of:open": "bus: verifies the seal",
    "sequencer/wire.py:decode:open": "stream, op log of a peer: verifies the seal",
    "sequencer/pubsub.py:_take_message:parse_message": "bus: by wire._record_of",
    "sequencer/log_reads.py:_verify:decode": "log: by StreamEntry.decode",
    "sequencer/peers.py:parse_entries:decode": "op log of a peer: by StreamEntry.decode",
    # A node that numbers its own entries has no other author.
    "core/replica.py:make_entry:Entry": "own proposals of a node without a log",
    # The replica refuses what was sealed elsewhere; see Replica._forgery.
    "replication/follower.py:_take:deliver": "bus: parsed by wire",
    "replication/catch_up.py:_extend:deliver": "log: read by Reader.read",
    "replication/catch_up.py:_apply_from_peer:deliver": "op log of a peer: read by parse_entries",
    "engine/engine.py:deliver:deliver": "passes on what the three above deliver",
    # Whole states.
    "replication/catch_up.py:_install:install_snapshot": "certificate of a majority of the voters",
    "engine/engine.py:task:install": "called by CatchUp._install alone",
    "storage/sqlite.py:install:install_snapshot": "called by Engine.install_snapshot and restore",
    "cli/backups.py:install:install": "root and certificate of the manifest",
    "cli/commands/cluster.py:restore:install": "by cli/backups.py",
    "replication/row_repair.py:_rewrite:repair_rows": "rows must give the digest of the state",
    # Own files: written after they were verified, and covered by digests and chains.
    "router/admin.py:_proposal_of:decode_proposal": "orphans of the own database, sealed anew",
    "snapshot_file.py": "reads files to compute their root, and staged chunks of the own database",
}
_CALLS = frozenset(
    {
        "Entry",
        "decode_proposal",
        "deliver",
        "install",
        "install_snapshot",
        "replace_all",
        "repair_rows",
        "parse_message",
        "decode",
        "open",
    }
)
_PACKAGES = ("sequencer", "replication", "engine", "storage", "core", "router", "cli", "snapshot_")


def test_every_path_into_a_node_names_what_verifies_it() -> None:
    found = {call for call in _calls() if not call.startswith("snapshot_file.py")}
    named = {path for path in PATHS if path != "snapshot_file.py"}

    assert found - named == set(), "name what verifies these paths"
    assert named - found == set(), "these paths are gone"


def _calls() -> set[str]:
    found: set[str] = set()
    node = ROOT / "node" / "synaptoroute"
    for path in python_files(*SOURCE_ROOTS):
        if not path.is_relative_to(node):
            continue
        name = str(path.relative_to(node))
        if name.startswith(_PACKAGES):
            tree = ast.parse(path.read_text())
            found |= {f"{name}:{where}" for where in _calls_in(tree, "")}
    return found


def _calls_in(node: ast.AST, function: str) -> set[str]:
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        inside = (
            child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        )
        if isinstance(child, ast.Call) and (called := _name_of(child)):
            found.add(f"{inside}:{called}")
        found |= _calls_in(child, inside)
    return found


def _name_of(call: ast.Call) -> str:
    """Name of a call that brings something in; empty for others of the same name."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name not in _CALLS:
        return ""
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    if name in ("open", "decode"):
        of_a_seal = owner == "signing_keys" or (
            name == "decode" and any("signing_keys" in ast.unparse(each) for each in call.args)
        )
        return name if of_a_seal else ""
    if (name == "install" and "cascade" in owner) or owner in ("self", "self._first_stage"):
        return ""
    return name
