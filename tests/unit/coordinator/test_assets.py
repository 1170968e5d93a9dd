"""The scripts of the dashboard declare each name once: a second one breaks every page."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from importlib.resources import files

import pytest

from repository import ROOT

pytestmark = pytest.mark.unit

DECLARED = re.compile(
    r"^(?:export )?(?:async )?(?:function\*?|const|let|class) ([A-Za-z_$][\w$]*)", re.MULTILINE
)
SCRIPTS = sorted(
    entry.name
    for entry in files("synaptoroute_coordinator").joinpath("assets").iterdir()
    if entry.name.endswith(".js")
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_names_of_a_script_are_declared_once(name: str) -> None:
    text = files("synaptoroute_coordinator").joinpath("assets", name).read_text("utf-8")
    repeated = [each for each, count in Counter(DECLARED.findall(text)).items() if count > 1]

    assert [] == repeated


def test_vendored_files_are_as_released_and_named_in_the_notice() -> None:
    notice = (ROOT / "NOTICE").read_text("utf-8")
    folder = files("synaptoroute_coordinator").joinpath("assets")
    for name in ("uplot.min.js", "uplot.min.css"):
        assert hashlib.sha256(folder.joinpath(name).read_bytes()).hexdigest() in notice


def test_page_asks_in_its_own_dialogs() -> None:
    """The dialogs of a browser cannot ask for a name, and some browsers suppress them."""
    asked = [
        name
        for name in SCRIPTS
        if re.search(
            r"(?<![\w.])(confirm|prompt|alert)\(",
            files("synaptoroute_coordinator").joinpath("assets", name).read_text("utf-8"),
        )
    ]

    assert [] == asked
