"""An integration without its packages names the extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from repository import ROOT

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("module", "extra", "package"),
    [
        ("mcp_server", "mcp", "mcp_types"),
        ("langchain", "langchain", "langchain_core"),
        ("llamaindex", "llamaindex", "llama_index"),
    ],
)
def test_import_without_the_extra_names_it(module: str, extra: str, package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "try:\n"
        f"    import synaptoroute.integrations.{module}\n"
        "except ImportError as error:\n"
        "    sys.stdout.write(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "node")},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert f"pip install 'synaptoroute-cluster[{extra}]'" in done.stdout, done.stderr
