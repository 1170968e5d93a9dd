"""What a catch-up came to."""

from __future__ import annotations

from enum import Enum


class Progress(Enum):
    """Whether there is more to do, and whether it can be done now."""

    AT_HEAD = "at_head"
    MOVED = "moved"
    BLOCKED = "blocked"
