"""Write what the chart says of values and settings from values.yaml and from the code.

``make docs`` calls it; tests compare.  A comment ``# -- text`` in values.yaml describes the
value on the next line, and its place in the file gives its name: so the README's table is
made.  The names that ``node.settings`` and ``coordinator.settings`` may have in the schema
are those of the settings classes, less those that the chart sets itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic_settings import BaseSettings

from synaptoroute.config import NodeConfig
from synaptoroute_coordinator.config import CoordinatorConfig

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm/synaptoroute"
# Copies and not links, which Helm warns of: files of the chart, by those of deploy/.
COPIED = {
    "alerts.yml": "deploy/prometheus/alerts.yml",
    "recording.yml": "deploy/prometheus/recording.yml",
    "dashboard.json": "deploy/grafana/dashboards/synaptoroute.json",
    "decisions.json": "deploy/grafana/dashboards/decisions.json",
    "haproxy.cfg": "deploy/haproxy/haproxy.cfg",
    "redis.conf": "deploy/redis/redis.conf",
}
README = CHART / "README.md"
VALUES = CHART / "values.yaml"
SCHEMA = CHART / "values.schema.json"
SET_BY_CHART = {
    "node": "advertise_url allow_plain_peers allow_unsigned allowed_hosts api_keys_file "
    "bootstrap_expect "
    "database first_api_key_file front_port genesis_file host identity_key_file "
    "initial_identity_key_file "
    "insecure namespace node_name "
    "peer_ca_file peer_cert_file peer_key_file peer_secret_file port redis_bus_urls redis_ca_file "
    "redis_cert_file redis_key_file redis_password_file redis_sentinel_password_file "
    "redis_sentinel_tls redis_sentinel_user redis_url routes_file "
    "shutdown_seconds signing_keys_file tls_cert tls_client_auth tls_client_ca "
    "tls_key trusted_proxies",
    "coordinator": "allow_plain_peers allow_unsigned allowed_hosts api_keys_file "
    "backup_folder backup_seconds "
    "backups_kept folder genesis_file host insecure log_format namespace node_key_file "
    "peer_ca_file peer_cert_file peer_key_file peer_secret_file port redis_ca_file "
    "redis_cert_file redis_key_file redis_password_file redis_sentinel_password_file "
    "redis_sentinel_tls redis_sentinel_user redis_url signing_keys_file "
    "tls_cert tls_client_auth tls_client_ca tls_key trusted_proxies",
}
SETTINGS: dict[str, type[BaseSettings]] = {"node": NodeConfig, "coordinator": CoordinatorConfig}
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):")
_DEFAULT_CHARACTERS_MAX = 60


def described(text: str) -> Iterator[tuple[str, str]]:
    """Give the path and the description of each value, in the order of the file.

    Raises:
        ValueError: A line that ends a branch has no description.
    """
    names: list[str] = []
    meaning = ""
    for line in text.splitlines():
        if line.strip().startswith("# -- "):
            meaning = line.strip().removeprefix("# -- ")
        elif found := _KEY.match(line):
            depth = len(found.group(1)) // 2
            if depth <= len(names):
                names = [*names[:depth], found.group(2)]
                if meaning:
                    yield ".".join(names), meaning
                    # What lies below a described value is part of its default.
                    names.append("")
                    meaning = ""
        if names and names[-1] == "":
            names.pop()


def value_at(values: Any, path: str) -> Any:
    """Find a value by its dotted path."""
    for name in path.split("."):
        values = values[name]
    return values


def table(text: str) -> str:
    """The Markdown table: value, default, meaning."""
    values = yaml.safe_load(text)
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for path, meaning in described(text):
        default = json.dumps(value_at(values, path))
        shown = f"`{default}`" if len(default) <= _DEFAULT_CHARACTERS_MAX else "see values.yaml"
        rows.append(f"| `{path}` | {shown} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def rewritten(readme: str, text: str) -> str:
    """The README with a fresh table between its marks."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(text)}\n{END}{tail}"


def reshaped(schema: str) -> str:
    """The schema with the settings that the processes have now."""
    document = json.loads(schema)
    for part, config in SETTINGS.items():
        offered = sorted(config.model_fields.keys() - set(SET_BY_CHART[part].split()))
        shape = {name: {"type": ["string", "number", "boolean"]} for name in offered}
        document["properties"][part]["properties"]["settings"]["properties"] = shape
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    README.write_text(
        rewritten(README.read_text(encoding="utf-8"), VALUES.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    for name, source in COPIED.items():
        (CHART / "files" / name).write_bytes((ROOT / source).read_bytes())
    SCHEMA.write_text(reshaped(SCHEMA.read_text(encoding="utf-8")), encoding="utf-8")
