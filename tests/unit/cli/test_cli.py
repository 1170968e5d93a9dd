"""The command line has the documented exit codes, starts fast, and is fully documented."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from synaptoroute.cli.app import app
from synaptoroute.cli.exit_codes import (
    BadUsage,
    CheckFailed,
    ExitCode,
    FileRejected,
    NodeRefused,
    NodeUnreachable,
    exit_code_of,
    one_line,
)
from synaptoroute.errors import ModelNotFound, SynaptoRouteError
from synaptoroute.version import __version__

pytestmark = pytest.mark.unit

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"
RUN = (sys.executable, "-c", "from synaptoroute.cli import main; main()")
HEAVY = ("numpy", "onnxruntime", "tokenizers", "fastembed", "pydantic_settings", "fastapi", "httpx")


def commands(group: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name."""
    group = typer.main.get_command(app) if group is None else group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def test_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])

    assert result.exit_code == ExitCode.DONE
    assert result.stdout == f"synaptoroute {__version__}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NodeRefused("no", code="route_not_found", status=404), ExitCode.REFUSED),
        (NodeUnreachable("gone"), ExitCode.UNREACHABLE),
        (FileRejected("bad"), ExitCode.USAGE),
        (BadUsage("bad"), ExitCode.USAGE),
        (CheckFailed("no"), ExitCode.NO),
        (ModelNotFound("no"), ExitCode.NO),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: SynaptoRouteError, code: ExitCode) -> None:
    assert code == exit_code_of(error)


def test_refusal_is_one_line_with_the_code_of_the_node() -> None:
    """The code comes first; line breaks in the message are removed."""
    refusal = NodeRefused("full\nnow", code="overloaded", status=429, retry_after_seconds=2.0)

    assert one_line(refusal) == "overloaded: full now (try again in 2 s)"


def test_error_is_one_line_without_a_traceback() -> None:
    """A closed port gives one line on standard error and exit code 3."""
    result = CliRunner().invoke(app, ["query", "hello", "--url", "http://127.0.0.1:9"])

    assert result.exit_code == ExitCode.UNREACHABLE
    assert result.stdout == ""
    assert result.stderr.startswith("synaptoroute: error: node_unreachable: ")
    assert len(result.stderr.splitlines()) == 1


def test_debug_raises_the_original_error() -> None:
    result = CliRunner().invoke(app, ["--debug", "query", "hello", "--url", "http://127.0.0.1:9"])

    assert isinstance(result.exception, NodeUnreachable)


@pytest.mark.parametrize(
    "words",
    [
        ["query"],
        ["query", "x", "--limit", "0"],
        ["query", "x", "--url", "ftp://x"],
        ["routes", "put", "x"],
        ["routes", "put", "x", "-u", "y", "--payload", "{"],
        ["routes", "rm", "a", "b", "--if-match", "1.2"],
        ["routes", "export", "--format", "xml"],
        ["routes", "import", "no-such-file.yaml"],
        ["keys", "new", "--name", "x", "--scopes", "all"],
        ["serve", "--port", "70000"],
        ["serve", "--log-level", "loud"],
        ["demo", "--routes", "no-such-file.yaml"],
        ["no-such-command"],
    ],
)
def test_wrong_usage_exits_with_two(words: list[str]) -> None:
    """Invalid input is refused before a node is asked."""
    result = CliRunner().invoke(app, words)

    assert result.exit_code == ExitCode.USAGE
    assert "Traceback" not in result.output


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C inside a command is not an error of the command."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("synaptoroute.cli.client.NodeClient.get", interrupt)
    result = CliRunner().invoke(app, ["status"])

    assert result.exit_code == ExitCode.INTERRUPTED


def test_help_loads_no_encoder_and_no_http_library() -> None:
    program = (
        "import sys\n"
        "sys.argv = ['synaptoroute', 'query', '--help']\n"
        "from synaptoroute.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_query_loads_no_encoder() -> None:
    program = (
        "import sys\n"
        "sys.argv = ['synaptoroute', 'query', 'x', '--url', 'http://127.0.0.1:9']\n"
        "from synaptoroute.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', sorted({'numpy', 'onnxruntime', 'synaptoroute.models', 'httpx._main'}"
        " & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_closed_pipe_is_not_an_error() -> None:
    """`synaptoroute ... | head -1` ends quietly."""
    shell = f"{sys.executable} -c 'from synaptoroute.cli import main; main()' model list | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)

    assert done.stderr == ""


def test_completion_can_be_shown() -> None:
    names = {option for param in typer.main.get_command(app).params for option in param.opts}

    assert {"--install-completion", "--show-completion"} <= names


def test_every_command_has_a_json_option() -> None:
    """Except those whose output is a file or a server."""
    without = {
        name
        for name, command in commands()
        if "--json" not in {option for param in command.params for option in param.opts}
    }

    assert without == {"serve", "mcp", "routes export"}


def test_commands_that_talk_to_a_node_take_the_files_of_tls() -> None:
    for name, command in commands():
        params = command.get_params(typer.Context(command))
        options = {option for param in params for option in param.opts}
        files = options & {"--ca", "--client-cert", "--client-key"}
        assert len(files) == (3 if "--url" in options else 0), name


def test_every_command_is_documented_with_an_example() -> None:
    """docs/cli.md has a section and an example for every command, and for no other."""
    text = DOCUMENT.read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^### `([a-z -]+)`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    )

    assert sorted(sections) == sorted(name for name, _ in commands())
    for name, section in sections.items():
        assert re.search(rf"^\$ .*synaptoroute .*{name}", section, re.MULTILINE), name


def test_every_option_is_documented() -> None:
    """The section of a command names all its options and no others."""
    text = DOCUMENT.read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^### `([a-z -]+)`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    )
    shared = {"--url", "--api-key", "--json", "--help", "--model", "--precision", "--backend"}
    shared |= {"--ca", "--client-cert", "--client-key", "--set"}
    for name, command in commands():
        options = {
            option
            for param in command.params
            if param.param_type_name == "option"
            for option in (*param.opts, *param.secondary_opts)
            if option.startswith("--")
        }
        documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", sections[name]))
        if name != "serve":  # its options are the settings, see docs/operations.md
            assert options - shared <= documented, name
            assert documented <= options, name


def test_exit_codes_are_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")

    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)} == {
        int(code) for code in ExitCode
    }
