"""Author and note of the writes of the running request.

The author is the name of the request's API key, the note what the client says about its change.

A server sets it once it knows who asks, before anything is written.  Every write takes it from
here, so that no way of writing can forget it; a client cannot set it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

AUTHOR_CHARACTERS_MAX: Final = 193
AUTHOR: Final[ContextVar[str]] = ContextVar("synaptoroute_author", default="")
"""Name of the author in the present context; empty for a client without a key."""
NOTE: Final[ContextVar[str]] = ContextVar("synaptoroute_note", default="")
"""Note of the present context; empty for none."""
AUTHOR_ADDRESS: Final[ContextVar[str]] = ContextVar("synaptoroute_author_address", default="")
"""Address of that client; empty for what a process does by itself."""
