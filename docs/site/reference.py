"""Reference pages of the documentation site, written from the code at each build.

Each function returns the Markdown of one page.  No file of these pages is committed, so none
can be out of date.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import typer

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "docs")]

import settings_table  # noqa: E402  beside this folder

from metric_names import exposition  # noqa: E402  of the tests' support
from synaptoroute.cli.app import app as node_app  # noqa: E402
from synaptoroute.config import NodeConfig  # noqa: E402
from synaptoroute.server.app import create_app  # noqa: E402
from synaptoroute_coordinator.cli import app as coordinator_app  # noqa: E402
from synaptoroute_coordinator.config import CoordinatorConfig  # noqa: E402

_HELP = re.compile(r"^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)$", re.MULTILINE)
_DEPTH_MAX = 4


def http_api() -> str:
    """The operations of a node, from its OpenAPI document."""
    document = create_app(_never, NodeConfig()).openapi()
    schemas = document["components"]["schemas"]
    lines = [
        "# HTTP API: operations",
        "",
        "Written from the OpenAPI document that every node serves at `/v1/openapi.json`.",
        "[The guide to the API](../api.md) explains concepts, headers and errors.",
        "",
    ]
    operations: dict[str, list[str]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = operation.get("tags", ["other"])[0]
            operations[tag] += _operation(path, method, operation, schemas)
    described = {tag["name"]: tag["description"] for tag in document.get("tags", [])}
    for tag, text in operations.items():
        lines += [f"## {tag.capitalize()}", "", described.get(tag, ""), "", *text]
    lines += ["## Schemas", ""]
    for name, schema in sorted(schemas.items()):
        lines += [f"### {name}", "", schema.get("description", ""), "", *_fields(schema), ""]
    return "\n".join(lines)


def _never() -> NoReturn:
    """The document needs no router."""
    raise AssertionError("this application only describes itself")


def _operation(
    path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> list[str]:
    lines = [f"### {method.upper()} {path}", "", f"**{operation['summary']}.**", ""]
    lines += [operation.get("description", ""), ""]
    parameters = operation.get("parameters", [])
    if parameters:
        lines += ["| parameter | in | type | meaning |", "|---|---|---|---|"]
        lines += [
            _row(f"`{each['name']}`", each["in"], _type(each["schema"]), _meaning(each))
            for each in parameters
        ]
        lines.append("")
    body = operation.get("requestBody", {}).get("content", {})
    for media, content in body.items():
        lines += [f"Body, `{media}`: {_type(content.get('schema', {}))}", ""]
        lines += _example("Request", content, schemas)
    for status, response in operation["responses"].items():
        if not status.startswith("2"):
            continue
        kinds = ", ".join(
            f"`{media}` {_type(content.get('schema', {}))}".strip()
            for media, content in response.get("content", {}).items()
        )
        lines += [f"{status}: {response['description']}{f' ({kinds})' if kinds else ''}.", ""]
        for content in response.get("content", {}).values():
            lines += _example("Answer", content, schemas)
    refused = [f"`{each}`" for each in operation["responses"] if not each.startswith("2")]
    if refused:
        lines += [f"Other statuses: {', '.join(refused)}.", ""]
    return lines


def _example(title: str, content: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    found = content.get("example")
    if found is None:
        found = next((each.get("value") for each in content.get("examples", {}).values()), None)
    if found is None:
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        found = next(iter(schemas.get(name, {}).get("examples", [])), None)
    if found is None:
        return []
    text = found if isinstance(found, str) else json.dumps(found, indent=2, ensure_ascii=False)
    return [f"{title}:", "", "```json", *text.splitlines(), "```", ""]


def _fields(schema: dict[str, Any]) -> list[str]:
    fields = schema.get("properties", {})
    if not fields:
        return [f"Type: {_type(schema)}"]
    needed = set(schema.get("required", []))
    return [
        "| field | type | meaning |",
        "|---|---|---|",
        *(
            _row(f"`{name}`{' (required)' if name in needed else ''}", _type(each), _meaning(each))
            for name, each in fields.items()
        ),
    ]


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _meaning(each: dict[str, Any]) -> str:
    text = str(each.get("description", "")).replace("``", "`")
    schema = each.get("schema", each)
    default = schema.get("default")
    return f"{text} Default: `{json.dumps(default)}`.".strip() if default is not None else text


def _type(schema: dict[str, Any], depth: int = 0) -> str:
    """Name a JSON type; a named schema is a link to its section."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if depth > _DEPTH_MAX:
        return "any"
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return " or ".join(_type(each, depth + 1) for each in schema[word])
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"array of {_type(schema.get('items', {}), depth + 1)}"
    return str(kind)


def command_line() -> str:
    """Every command of both programs, from the command trees."""
    lines = [
        "# Command line: commands",
        "",
        "Written from the commands themselves. [The guide to the command line](../cli.md) has",
        "examples, exit codes and what the commands have in common.",
        "",
    ]
    for name, tree in (
        ("synaptoroute", node_app),
        ("synaptoroute-coordinator", coordinator_app),
    ):
        lines += [f"## {name}", ""]
        for path, command in _commands(typer.main.get_command(tree), name):
            lines += _command(path, command)
    return "\n".join(lines)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every command below a group, with its full name."""
    children = getattr(command, "commands", None)
    if not children:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from _commands(child, f"{path} {name}")


def _command(path: str, command: Any) -> list[str]:
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    text = re.sub(r"[ \t]+", " ", (command.help or "").replace("\b", "").strip())
    lines = [f"### {path}", "", text, "", "```text", f"{path} {usage}", "```", ""]
    rows = [_option(each) for each in command.params if not getattr(each, "hidden", False)]
    if rows:
        lines += ["| argument or option | default | meaning |", "|---|---|---|", *rows, ""]
    return lines


def _option(option: Any) -> str:
    names = [f"`{each}`" for each in (*option.opts, *option.secondary_opts)]
    if option.param_type_name == "argument":
        names = [f"`{option.metavar or option.name}`"]
    shown = getattr(option, "show_default", None)
    default = shown if isinstance(shown, str) else ""
    if not default and option.default not in (None, False, ()) and not callable(option.default):
        default = f"`{option.default}`"
    meaning = getattr(option, "help", None) or ""
    return _row(", ".join(names), default, meaning)


def settings() -> str:
    """The settings of both programs, from their settings classes."""
    return "\n".join(
        [
            "# Settings",
            "",
            "Written from the code. Every setting of a node is also an option of `serve`.",
            "[Operations](../operations.md#settings) says which one to use when.",
            "",
            "## Node",
            "",
            settings_table.table(NodeConfig),
            "",
            "## Coordinator",
            "",
            settings_table.table(CoordinatorConfig).replace(
                settings_table.ENV_PREFIX, str(CoordinatorConfig.model_config["env_prefix"])
            ),
            "",
        ]
    )


def metrics() -> str:
    """The metrics of a node, from its exposition; those of the coordinator are in operations.md."""
    rows = [
        _row(f"`{name}`", kind, text)
        for name, text, kind in sorted(_HELP.findall(exposition()))
        if not name.endswith("_created")
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "What `/metrics` of a node exposes, written from the code.",
            "[Operations](../operations.md#metrics) has the metrics of the coordinator, too, and",
            "what to alert on.",
            "",
            "| metric | type | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


PAGES = {
    "reference/http-api.md": http_api,
    "reference/command-line.md": command_line,
    "reference/settings.md": settings,
    "reference/metrics.md": metrics,
}
"""The pages of the site that are written here, by path."""
