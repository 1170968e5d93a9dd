"""The quick start: that of release 0.2, and that of README.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from repository import ROOT
from synaptoroute.encoder import Encoder
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit


async def test_quick_start_of_release_0_2_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route that is added before ``start`` matches by meaning."""
    monkeypatch.chdir(tmp_path)
    encoder = Encoder(providers=["CPUExecutionProvider"])
    storage = SQLiteStorage("data/memory.sqlite")
    router = AdaptiveRouter(encoder, storage)
    route = Route(
        name="billing",
        utterances=["I need a refund", "Where is my receipt?", "Cancel my subscription"],
    )
    router.add_route(route)
    await router.start()
    result = await router.aquery("How do I get my money back?")
    nothing = await router.aquery("What will the weather be like on Mars tomorrow?")
    await router.stop()
    again = AdaptiveRouter(encoder, SQLiteStorage("data/memory.sqlite"))
    await again.start()
    kept = await again.aquery("How do I get my money back?")
    await again.stop()

    assert "billing" == result.name == kept.name
    assert result
    assert not nothing
    assert (tmp_path / "data" / "memory.sqlite").is_file()
    assert result.score == kept.score


@pytest.mark.parametrize(
    ("document", "number"), [("README.md", 0), ("docs/library.md", 0), ("docs/library.md", 1)]
)
def test_program_of_a_document_runs(document: str, number: int, tmp_path: Path) -> None:
    """A block of Python is executed as it is, without a warning."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks[number]],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert ("", 0) == (ran.stderr, ran.returncode)
    assert ran.stdout
