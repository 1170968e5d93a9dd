"""The ``synaptoroute`` command.

``app`` is the command tree, ``commands/`` holds the commands, ``exit_codes`` defines how
they end.  Commands import the encoder, the HTTP client and the settings only when they
need them, so that a command that only talks to a node starts fast.
"""

from __future__ import annotations

import synaptoroute.installation  # noqa: F401  raises where another project's files are mixed in

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from synaptoroute.cli.app import app

    app()
