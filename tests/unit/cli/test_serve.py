"""Every setting is an option, and the settings validate the values."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from synaptoroute.cli.app import app
from synaptoroute.cli.commands.serve import read_settings, setting_parameters
from synaptoroute.cli.exit_codes import BadUsage
from synaptoroute.config import NodeConfig

pytestmark = pytest.mark.unit


def test_every_setting_is_an_option() -> None:
    assert set(NodeConfig.model_fields) == {param.name for param in setting_parameters()}


def test_help_names_the_variable_and_the_default() -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).stdout

    for name in NodeConfig.model_fields:
        assert f"--{name.replace('_', '-')}" in shown
        assert f"SYNAPTOROUTE_{name.upper()}" in shown
    assert "default: 8080" in shown


def test_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings without an option come from the environment."""
    monkeypatch.setenv("SYNAPTOROUTE_PORT", "1111")
    monkeypatch.setenv("SYNAPTOROUTE_LANES", "3")
    config = read_settings({"port": "2222", "database": "x.sqlite"})

    assert (config.port, config.lanes, config.database) == (2222, 3, Path("x.sqlite"))


def test_options_reach_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the given options are passed, flags in both directions."""
    served: list[NodeConfig] = []

    def keep(config: NodeConfig, *, encoder: object) -> None:
        served.append(config)

    monkeypatch.setattr("synaptoroute.server.process.serve", keep)
    monkeypatch.setattr("synaptoroute.server.serve", keep, raising=False)
    words = ["serve", "--port", "0", "--batch-window-ms", "2.5", "--insecure", "--no-log-queries"]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, result.output
    (config,) = served
    assert (config.port, config.batch_window_ms) == (0, 2.5)
    assert (config.insecure, config.log_queries) == (True, False)
    assert config.lanes == NodeConfig().lanes


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"port": "70000"}, "--port (SYNAPTOROUTE_PORT): "),
        ({"batch_tokens_max": "1"}, "--batch-tokens-max (SYNAPTOROUTE_BATCH_TOKENS_MAX): "),
        ({"log_level": "loud"}, "--log-level (SYNAPTOROUTE_LOG_LEVEL): "),
    ],
)
def test_invalid_value_names_option_and_variable(given: dict[str, str], expected: str) -> None:
    with pytest.raises(BadUsage) as caught:
        read_settings(given)

    assert caught.value.message.startswith(expected)
