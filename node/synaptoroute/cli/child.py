"""``python -m synaptoroute.cli.child PARENT-ID WORDS...``: a command that dies with its parent.

After ``--exec``, the words are another program, which takes the place of this one.

A parent that is killed cannot stop its children.  Linux can: it sends a signal of the
child's choice when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG).
Elsewhere the command runs without that.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def follow_parent(parent_id: int) -> bool:
    """Ask for SIGTERM when the parent ends; False where it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == parent_id


def main() -> None:
    """Run the command line with the words after the parent's id."""
    if not follow_parent(int(sys.argv[1])):
        return
    if sys.argv[2] == "--exec":
        os.execv(sys.argv[3], sys.argv[3:])
    sys.argv = ["synaptoroute", *sys.argv[2:]]
    from synaptoroute.cli import main as run

    run()


if __name__ == "__main__":
    main()
