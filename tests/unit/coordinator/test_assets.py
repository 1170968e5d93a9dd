"""The scripts of the dashboard declare each name once: a second one breaks every page."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files

import pytest

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
