"""What `status` and `doctor` say of the cascade."""

from __future__ import annotations

from pathlib import Path

import pytest

from synaptoroute.cli.commands.cluster import status_rows
from synaptoroute.cli.commands.doctor import check_encoder
from synaptoroute.config import DEFAULT_MODEL, NodeConfig

pytestmark = pytest.mark.unit


def test_status_shows_the_state_and_its_reason() -> None:
    state = {"state": "ready", "reasons": [], "release": "1", "uptime_seconds": 1.0}
    cascade = {"state": "off", "reason": "static_encoder"}
    rows = status_rows({**state, "router": {"node": "a", "cascade": cascade}})

    assert ("cascade", "off (static_encoder)") in rows


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (DEFAULT_MODEL, "the cascade has its table"),
        ("fast", "no cascade: the encoder is a static table itself"),
    ],
)
def test_doctor_says_whether_the_table_is_there(tmp_path: Path, model: str, said: str) -> None:
    _, result = check_encoder(NodeConfig(model=model, model_cache_dir=tmp_path))

    assert said in result.what
