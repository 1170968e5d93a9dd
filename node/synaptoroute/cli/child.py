"""``python -m synaptoroute.cli.child PARENT-ID ARGUMENTS...``: a command that dies with its parent.

After ``--exec``, the arguments are another program, which replaces this one.

A parent that is killed cannot stop its children, but Linux can: it sends the child a
signal when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG).  On other
systems the command runs without this protection.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def follow_parent(parent_id: int) -> bool:
    """Request SIGTERM for when the parent ends; return False if it has already ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # The parent may have ended before prctl; then no signal will come.
    return os.getppid() == parent_id


def main() -> None:
    """Run the command line with the arguments after the parent's id."""
    if not follow_parent(int(sys.argv[1])):
        return
    if sys.argv[2] == "--exec":
        os.execv(sys.argv[3], sys.argv[3:])
    sys.argv = ["synaptoroute", *sys.argv[2:]]
    from synaptoroute.cli import main as run

    run()


if __name__ == "__main__":
    main()
