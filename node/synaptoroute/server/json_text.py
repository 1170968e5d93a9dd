"""JSON as RFC 8259 has it, and no more.

No NaN, no Infinity, no lone surrogate, no invalid UTF-8, and no nesting that a
recursive reader could not follow.  Imports nothing of the HTTP framework, so that
the command line can read files by the same rules.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from synaptoroute.web.refusals import MalformedBody


def parse_json(body: bytes) -> Any:
    """Read JSON strictly; the parser itself limits the nesting to 200.

    Raises:
        MalformedBody: Not JSON; says at which line and column.
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedBody(f"the body is not valid JSON: {error}") from None
