"""``synaptoroute doctor``: would a node work here?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from synaptoroute.cli.exit_codes import CheckFailed
from synaptoroute.cli.options import AsJson
from synaptoroute.cli.terminal import note, print_json, print_table, waiting

if TYPE_CHECKING:
    from synaptoroute.cli.health import Finding


def doctor(as_json: AsJson = False) -> None:
    """Check this machine and the settings that a node would start with.

    Changes nothing. Ends with 1 when something would not work.
    """
    from synaptoroute.cli.health import examine
    from synaptoroute.cli.settings_options import read_settings

    with waiting("Looking ..."):
        findings = list(examine(read_settings({})))
    _show(findings, as_json)
    failed = [finding.name for finding in findings if finding.state == "fail"]
    if failed:
        raise CheckFailed(f"a node would not work here: {', '.join(failed)}")
    note("a node would work here")


def _show(findings: list[Finding], as_json: bool) -> None:
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    print_table(
        ("check", "state", "found", "what to do"),
        (
            (finding.name, (finding.state, finding.state), finding.what, finding.advice)
            for finding in findings
        ),
    )
