"""Settings from the environment, and the CPU limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from synaptoroute import config
from synaptoroute.config import EngineConfig, NodeConfig, cpu_limit

pytestmark = pytest.mark.unit


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments take precedence over variables."""
    monkeypatch.setenv("SYNAPTOROUTE_LANES", "3")
    monkeypatch.setenv("SYNAPTOROUTE_BATCH_WINDOW_MS", "2.5")
    monkeypatch.setenv("LANES", "9")
    found = EngineConfig()

    assert (3, 2.5) == (found.lanes, found.batch_window_ms)
    assert 4 == EngineConfig(lanes=4).lanes
    assert 3 == NodeConfig().lanes


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        EngineConfig().lanes = 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LANES", "-1"),
        ("LANES", "257"),
        ("BATCH_TOKENS_MAX", "15"),
        ("BATCH_WINDOW_MS", "-0.1"),
        ("BATCH_WINDOW_MS", "nan"),
        ("QUEUE_REQUESTS_MAX", "0"),
        ("WRITE_TEXTS_MAX", "0"),
        ("QUERY_DEADLINE_MS", "0"),
        ("EMBEDDING_CACHE_ROWS", "-1"),
        ("NODE_NAME", "x" * 129),
        ("PORT", "65536"),
        ("NAMESPACE", "a b"),
        ("LOG_LEVEL", "loud"),
        ("SQLITE_SYNCHRONOUS", "off"),
    ],
)
def test_setting_out_of_range_is_rejected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"SYNAPTOROUTE_{name}", value)
    with pytest.raises(ValidationError):
        NodeConfig()


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "garbage"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_cpu_quota_of_the_container_is_read(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    """From cgroups v1 and v2; without a quota there is None."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    assert quota == config._cgroup_quota_cpus(tmp_path)


@pytest.mark.parametrize(
    ("quota", "expected"), [(None, 8), (0.5, 1), (1.0, 1), (2.9, 2), (64.0, 8)]
)
def test_cpu_limit_follows_the_quota_not_the_host(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    """A container with half a CPU on a large host gets one."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(config, "_cgroup_quota_cpus", lambda _: quota)

    assert expected == cpu_limit()
