"""The ``synaptoroute`` command.

``app`` names the commands, ``commands/`` holds one file each, ``failures`` says how
they end.  Nothing here loads the encoder, the HTTP client or the settings before a
command needs them: a command that only talks to a node starts fast.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from synaptoroute.cli.app import app

    app()
