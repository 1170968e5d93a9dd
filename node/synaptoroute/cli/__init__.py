"""The ``synaptoroute`` command.

``app`` is the command tree, ``commands/`` holds the commands, ``exit_codes`` defines how
they end.  Commands import the encoder, the HTTP client and the settings only when they
need them, so that a command that only talks to a node starts fast.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

import synaptoroute.installation  # noqa: F401  raises where another project's files are mixed in

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _set_up_streams()
    sys.argv = _arguments()
    from synaptoroute.cli.app import app

    app()


def _arguments() -> list[str]:
    """The arguments as UTF-8, whatever the locale is; ends the process if they are not."""
    try:
        return [os.fsencode(word).decode() for word in sys.argv]
    except UnicodeDecodeError as error:
        shown = error.object.decode(errors="backslashreplace")
        sys.stderr.write(f"synaptoroute: error: usage: the argument {shown} is not UTF-8\n")
        raise SystemExit(2) from None


def _set_up_streams() -> None:
    """Write what a terminal cannot show as an escape, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8")
