"""What a serving process does before it starts: interpreter settings, and a first API key."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from synaptoroute.config import NodeConfig
from synaptoroute.server import process
from synaptoroute.web.api_keys import ApiKeys

pytestmark = pytest.mark.unit

_PROGRAM = """
import gc, sys
from synaptoroute.server import process
process.tune_interpreter()
process.freeze_objects()
print(sys.getswitchinterval(), *gc.get_threshold(), gc.get_freeze_count() > 1_000)
"""


def test_serving_process_is_tuned_and_a_library_is_not() -> None:
    """Importing the package changes no settings of the interpreter."""
    before = (sys.getswitchinterval(), gc.get_threshold(), gc.get_freeze_count())
    words = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    seconds, *numbers, is_frozen = done.stdout.split()

    assert process.SWITCH_SECONDS == pytest.approx(float(seconds))
    assert [str(process.COLLECT_OBJECTS), *map(str, process.COLLECT_RUNS)] == numbers
    assert "True" == is_frozen
    assert before == (sys.getswitchinterval(), gc.get_threshold(), gc.get_freeze_count())


def test_first_api_key_is_made_and_shown_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "api-keys"
    config = NodeConfig(host="0.0.0.0", port=8000, first_api_key_file=path)
    assert path == process.first_api_key_file(config)
    said = capsys.readouterr().out
    key = next(word for word in said.split() if word.startswith("sr_"))
    assert path == process.first_api_key_file(config)

    assert "" == capsys.readouterr().out
    assert "http://localhost:8000/v1/query" in said
    assert 0o600 == path.stat().st_mode & 0o777
    assert key not in path.read_text()
    found = ApiKeys(path).find(key)
    assert found is not None
    assert found.may("admin")


@pytest.mark.parametrize(
    "settings",
    [{"host": "127.0.0.1"}, {"host": "0.0.0.0", "insecure": True}],
    ids=["loopback", "insecure"],
)
def test_no_api_key_is_made_where_none_is_needed(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = tmp_path / "api-keys"

    assert None is process.first_api_key_file(NodeConfig(first_api_key_file=path, **settings))
    assert not path.exists()


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"host": "10.0.0.7", "port": 8411}, "http://10.0.0.7:8411"),
        ({"host": "10.0.0.7", "port": 0}, ""),  # the system chooses the port at the start
        ({"host": "0.0.0.0", "port": 8411}, ""),
        ({"port": 0, "advertise_url": "http://node-1:80"}, "http://node-1:80"),
    ],
)
def test_node_advertises_an_address_that_it_knows(settings: dict[str, Any], url: str) -> None:
    config = process.cluster_config(NodeConfig(**settings))

    assert url == config.advertise_url
