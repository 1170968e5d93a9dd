"""``python -m synaptoroute.server``: one node, set up by its environment alone."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from synaptoroute.config import NodeConfig
from synaptoroute.errors import ConfigError
from synaptoroute.server.process import serve
from synaptoroute.web.problems import field_errors, first_message

BAD_SETTINGS = 2


def main() -> None:
    try:
        serve(NodeConfig())
    except ValidationError as error:
        _refuse(first_message(field_errors(error), "the settings are malformed"))
    except ConfigError as error:
        _refuse(error.message)


def _refuse(why: str) -> None:
    sys.stderr.write(f"{why}\n")
    raise SystemExit(BAD_SETTINGS)


if __name__ == "__main__":
    main()
